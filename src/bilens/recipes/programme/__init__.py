"""The founding programme: one claim or group of claims a file, measured over seeds."""
