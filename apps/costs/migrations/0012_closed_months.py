from django.db import migrations

from portal.partitions import RefuseChanges

# An entry of the last hour cannot be in a closed month, because a month is closed an hour after its end at the
# earliest: the entries of calls that were just made pay for no look-up.
REFUSE_ENTRIES = """
CREATE FUNCTION refuse_entry_of_closed_month() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE closed timestamptz;
BEGIN
    SELECT max(ends_at) INTO closed FROM costs_statement WHERE tenant_id = NEW.tenant_id;
    IF NEW.at < closed THEN
        RAISE EXCEPTION 'an entry at % is refused: the ledger of tenant % is closed up to %',
            NEW.at, NEW.tenant_id, closed USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER closed_months AFTER INSERT ON costs_ledgerentry FOR EACH ROW
    WHEN (NEW.at < clock_timestamp() - interval '1 hour') EXECUTE FUNCTION refuse_entry_of_closed_month();
"""
ACCEPT_ENTRIES = """
DROP TRIGGER closed_months ON costs_ledgerentry;
DROP FUNCTION refuse_entry_of_closed_month;
"""

KEEP_STATEMENTS = """
CREATE FUNCTION keep_statement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.ends_at > clock_timestamp() - interval '1 hour' THEN
            RAISE EXCEPTION 'a month that ends at % cannot be closed yet', NEW.ends_at
                USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.status = 'closing' AND NEW.status = 'closed'
        AND (to_jsonb(NEW) - '{status,total,entries,closed_at}'::text[])
            = (to_jsonb(OLD) - '{status,total,entries,closed_at}'::text[]) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the statement of % is kept for ever: % refused', OLD.period, TG_OP
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER kept BEFORE INSERT OR UPDATE OR DELETE ON costs_statement
    FOR EACH ROW EXECUTE FUNCTION keep_statement();

CREATE FUNCTION refuse_line_of_closed_statement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM costs_statement WHERE id = NEW.statement_id AND status <> 'closing') THEN
        RAISE EXCEPTION 'the statement is closed: a further line is refused' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER closed_statements AFTER INSERT ON costs_statementline
    FOR EACH ROW EXECUTE FUNCTION refuse_line_of_closed_statement();
"""
FORGET_STATEMENTS = """
DROP TRIGGER closed_statements ON costs_statementline;
DROP FUNCTION refuse_line_of_closed_statement;
DROP TRIGGER kept ON costs_statement;
DROP FUNCTION keep_statement;
"""


class Migration(migrations.Migration):
    dependencies = [("costs", "0011_statements")]

    operations = [
        migrations.RunSQL(REFUSE_ENTRIES, ACCEPT_ENTRIES),
        migrations.RunSQL(KEEP_STATEMENTS, FORGET_STATEMENTS),
        RefuseChanges("costs_statementline"),
    ]
