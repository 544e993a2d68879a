"""The founding programme: one claim or group of claims per file, measured over seeds."""
