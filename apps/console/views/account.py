"""Logging in and out."""

from __future__ import annotations

from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView, LogoutView
from django.http import HttpRequest
from unfold.widgets import INPUT_CLASSES


class LoginForm(AuthenticationForm):
    """User name and password, in the theme's fields."""

    def __init__(self, request: HttpRequest | None = None, *args: object, **kwargs: object) -> None:
        super().__init__(request, *args, **kwargs)
        for field in self.fields.values():
            field.widget.attrs["class"] = " ".join(INPUT_CLASSES)

    error_messages = {
        "invalid_login": "That user name and password do not match. Both are case-sensitive.",
        "inactive": "This account is switched off. Ask an administrator of your tenant.",
    }


class Login(LoginView):
    """Login with a user name and password; goes on to ``?next=`` when that is a page of this site."""

    template_name = "console/login.html"
    authentication_form = LoginForm
    redirect_authenticated_user = True


class Logout(LogoutView):
    """Ends the session (POST) and shows the login page."""
