"""What the API and the worker may read of the engine: specs, parameters, events, errors and figures. Loads pydantic only."""
