"""Roles are data: what each may do, written out."""

from __future__ import annotations

from pathlib import Path

from apps.tenants.roles import MEANING, ON_ONE_SWARM, PERMISSIONS, Permission, Role

P = Permission


def test_every_role_has_its_permissions_written_down() -> None:  # A1
    assert set(PERMISSIONS) == set(Role.values)


def test_the_named_roles_hold_at_least_what_they_are_named_for() -> None:  # A1
    assert {P.SWARM_CREATE, P.SWARM_READ, P.SWARM_UPDATE, P.SWARM_DELETE, P.SWARM_TERMINATE, P.USER_MANAGE} <= (
        PERMISSIONS[Role.ADMIN]
    )
    assert {P.SWARM_CREATE, P.SWARM_READ, P.SWARM_UPDATE} <= PERMISSIONS[Role.DEVELOPER]
    assert P.SWARM_READ in PERMISSIONS[Role.VIEWER]


def test_viewers_change_nothing() -> None:
    assert {permission for permission in PERMISSIONS[Role.VIEWER] if not permission.endswith(":read")} == set()


def test_only_those_who_answer_for_it_stop_swarms_and_move_money() -> None:
    def holders(permission: Permission) -> set[str]:
        return {role for role, held in PERMISSIONS.items() if permission in held}

    assert holders(P.SWARM_TERMINATE) == {Role.ADMIN, Role.OPERATOR}
    assert holders(P.BUDGET_UPDATE) == {Role.ADMIN, Role.FINANCE}
    assert holders(P.AUDIT_READ) == {Role.ADMIN, Role.COMPLIANCE}
    assert holders(P.USER_MANAGE) == {Role.ADMIN}
    assert holders(P.POOL_UPDATE) == set()


def reference() -> str:
    """The table of the reference page, as the data has it."""
    lines = ["| permission | to | " + " | ".join(Role.values) + " |", "|---|---|" + "---|" * len(Role.values)]
    for permission in P:
        marks = " | ".join("yes" if permission in PERMISSIONS[role] else "" for role in Role.values)
        lines.append(f"| `{permission}` | {MEANING[permission]} | {marks} |")
    return "\n".join(lines)


def test_the_reference_page_says_what_the_table_says() -> None:  # A1
    page = (Path(__file__).parent.parent / "docs/reference/roles.md").read_text()
    assert reference() in page, f"put this into docs/reference/roles.md:\n{reference()}"
    assert ", ".join(f"`{each}`" for each in sorted(ON_ONE_SWARM)) in page
