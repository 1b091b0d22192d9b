"""The resources as typed values: their shape, nothing more. Limits live in the CRDs."""
