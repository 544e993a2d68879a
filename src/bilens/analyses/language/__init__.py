"""The main job for language models: features of a layer read from its weights, looked at on text, and their page."""
