"""The sidebar of the administration, in the order in which people think of the work."""

from __future__ import annotations

MENU: list[tuple[str, list[tuple[str, str, str]]]] = [
    ("", [("Console", "monitoring", "console:overview"), ("Overview", "dashboard", "admin:index")]),
    (
        "Operations",
        [
            ("Swarms", "hub", "swarms.Swarm"),
            ("Tasks", "task_alt", "swarms.Task"),
            ("Attempts", "replay", "execution.Attempt"),
            ("Agents", "smart_toy", "swarms.Agent"),
            ("Steps", "account_tree", "swarms.Step"),
            ("Artifacts", "attach_file", "execution.Artifact"),
            ("Archives", "inventory_2", "execution.Archive"),
            ("Resource pool", "speed", "swarms.ResourcePool"),
        ],
    ),
    (
        "Money",
        [
            ("Spending", "bar_chart", "admin:costs_report"),
            ("Budgets", "account_balance_wallet", "costs.Budget"),
            ("Budget alerts", "notifications_active", "costs.BudgetAlert"),
            ("Ledger", "receipt_long", "costs.LedgerEntry"),
            ("Statements", "description", "costs.Statement"),
            ("Cost centres", "corporate_fare", "costs.CostCentre"),
            ("Where costs go", "alt_route", "admin:costs_charging"),
            ("Export a month", "download", "admin:costs_export"),
            ("Advice", "lightbulb", "admin:costs_advice"),
            ("Agent overrides", "tune", "swarms.AgentOverride"),
            ("What if", "query_stats", "admin:costs_what_if"),
        ],
    ),
    (
        "Prices and rates",
        [
            ("Prices in force", "price_check", "admin:costs_prices_now"),
            ("Prices", "sell", "costs.Price"),
            ("Rates", "request_quote", "costs.Rate"),
        ],
    ),
    (
        "Agents elsewhere",
        [
            ("Costs from elsewhere", "call_received", "costs.ExternalEvent"),
            ("Calls elsewhere", "output", "costs.ExternalReservation"),
        ],
    ),
    (
        "Cost records",
        [
            ("Budget periods", "date_range", "costs.BudgetPeriod"),
            ("Reservations", "lock_clock", "costs.Reservation"),
            ("Holdings", "timelapse", "swarms.Holding"),
            ("Accrued hours", "more_time", "costs.AccruedHour"),
            ("First exports", "verified", "costs.StatementExport"),
        ],
    ),
    (
        "Access",
        [
            ("Tenants", "domain", "tenants.Tenant"),
            ("Users", "person", "tenants.User"),
            ("Memberships", "badge", "tenants.Membership"),
            ("Grants", "handshake", "tenants.SwarmGrant"),
            ("Access policies", "gavel", "tenants.AccessPolicy"),
            ("Who can do what", "groups", "admin:access_who"),
            ("Why allowed or denied", "help", "admin:access_why"),
            ("API tokens", "key", "tenants.ApiToken"),
        ],
    ),
    (
        "Logins",
        [
            ("Identity providers", "fingerprint", "tenants.IdentityProvider"),
            ("Group rules", "group", "tenants.GroupRule"),
            ("Identities", "contact_mail", "tenants.Identity"),
            ("Failed logins", "lock_person", "axes.AccessAttempt"),
        ],
    ),
    (
        "Integration",
        [
            ("Webhooks", "webhook", "webhooks.Webhook"),
            ("Deliveries", "outbox", "webhooks.Delivery"),
        ],
    ),
    (
        "Compliance",
        [
            ("Audit trail", "policy", "audit.AuditEntry"),
            ("Data subjects", "shield_person", "privacy.DataSubject"),
            ("Event log", "timeline", "events.Event"),
        ],
    ),
    (
        "System",
        [
            ("Providers", "cloud", "providers.Provider"),
            ("Regions", "public", "providers.Region"),
            ("Data residency", "travel_explore", "providers.ResidencyRule"),
            ("Keys of providers", "vpn_key", "providers.SecretState"),
            ("Caches", "cached", "admin:providers_caches"),
            ("Runners", "memory", "execution.Runner"),
            ("Orchestrator ticks", "schedule", "execution.Tick"),
            ("Watchdog runs", "health_and_safety", "observability.WatchdogRun"),
            ("Event consumers", "sync", "events.Consumer"),
            ("Log horizons", "start", "events.Horizon"),
            ("API answers kept", "repeat_one", "api.IdempotencyKey"),
            ("API allotments", "speed", "api.RateAllotment"),
            ("Job schedules", "event_repeat", "django_q.Schedule"),
            ("Queued jobs", "pending_actions", "django_q.OrmQ"),
            ("Finished jobs", "check_circle", "django_q.Success"),
            ("Failed jobs", "error", "django_q.Failure"),
        ],
    ),
]
"""Groups of links: a title, a Material symbol, and a model's label or the name of a URL."""
