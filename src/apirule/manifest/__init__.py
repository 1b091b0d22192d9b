"""Manifests: YAML and JSON text in and out, with the file, line and column of each field.

``load`` returns every object it can read and every mistake it finds; a document that is broken
does not hide the next one. Text is read as kubectl reads it: YAML 1.1 words such as ``yes`` are
booleans, dates stay strings, keys become strings.
"""

from apirule.manifest.json_text import read_json
from apirule.manifest.limits import TooMuchError, check_depth
from apirule.manifest.reading import documents, read_yaml
from apirule.manifest.text import Finding, Manifest, Manifests, Object, Position, load
from apirule.manifest.writing import dump

__all__ = [
    "Finding",
    "Manifest",
    "Manifests",
    "Object",
    "Position",
    "TooMuchError",
    "check_depth",
    "documents",
    "dump",
    "load",
    "read_json",
    "read_yaml",
]
