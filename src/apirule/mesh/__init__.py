"""Istio to Envoy: one set of xDS resources per proxy. Pure: values in, protobuf messages out."""
