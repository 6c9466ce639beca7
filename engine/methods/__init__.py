"""The methods, a folder a family: `spec.py` holds parameters, one file a method implements it."""
