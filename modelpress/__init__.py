"""What users of Modelpress import in their own programs. It stands on nothing of the service."""
