"""The engine: follows the store, builds what each Envoy is told, and knows what each has taken."""
