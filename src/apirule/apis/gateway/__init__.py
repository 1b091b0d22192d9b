"""The group gateway.kyma-project.io, one module per version."""
