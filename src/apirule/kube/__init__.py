"""The Kubernetes client runtime: a thin HTTP client, informers, work queue, controllers, leases."""
