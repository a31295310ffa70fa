"""Login with OpenID Connect: what providers publish, what they say of a person, and what that person may then do."""
