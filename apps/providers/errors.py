class ProviderUnavailable(Exception):
    """No region of the provider can take the call, or its key is missing; the text is for a person."""
