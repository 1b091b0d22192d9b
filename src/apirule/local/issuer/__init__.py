"""The development OIDC issuer: tokens for one machine, with the manners of a real provider."""
