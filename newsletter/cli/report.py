"""`newsletter status` and `newsletter explain`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from newsletter.cli.session import describe_detail, local, opened_app, print_json
from newsletter.cli.subscribers import describe_subscription, find_dossier, step_names

if TYPE_CHECKING:
    from datetime import datetime

    from newsletter.settings import Settings
    from newsletter.store.database import Connection
    from newsletter.store.reports import Delivery, Dossier, Event, KeptBack, Subscription

_AsJson = Annotated[bool, typer.Option("--json", help="For a script.")]

_RULES = {
    "slot": "their slot",
    "after": "the step says how long after the last letter it comes",
    "min_gap": "the first slot five days after the last letter",
    "not_before": "the first slot after a pause",
    "paused": "the first slot after the pause",
    "at_once": "they asked for the first letter at once",
    "cap": "another sequence has their letter of this week",
    "late": "the letter was late, and that week passes",
}
_STATES = {
    "pending": "they have not confirmed; nothing comes before they do",
    "paused": "paused, until they say so",
    "waiting": "all letters received; new ones would come",
    "finished": "finished; nothing more comes of it",
    "left": "they left; nothing comes any more",
}
_TOLD = (
    "asked", "confirmed", "left",
    "finished", "continued", "late", "skipped", "moved", "retimed", "paused", "resumed", "suppressed",
    "slot_changed",
)  # fmt: skip


def status(as_json: _AsJson = False) -> None:
    """Counts by state, lag, the next letter, uncertain ones."""
    with opened_app() as newsletter:
        from newsletter.store import reports

        now = newsletter.clock.now()
        with newsletter.database.read() as connection:
            found = reports.status(connection, now=now)
            warm_up = _warm_up(connection, newsletter.settings, now=now)
        edition = newsletter.publishing.live()
        revision = None if edition is None else edition.number
        zone = newsletter.settings.timezone
    if as_json:
        print_json({"now": now, "revision": revision, "warm_up": warm_up, **asdict(found)})
        return
    sending = "on" if found.sending else "STOPPED (`newsletter start` lets it go on)"
    typer.echo(f"Sending: {sending}; workers: {found.workers}; revision: {revision or 'nothing published'}")
    typer.echo(f"Due now: {found.due}, the oldest {found.lag_seconds:.0f} s behind")
    typer.echo(f"Next letter due: {local(found.next_due_at, zone)}")
    typer.echo("Subscriptions: " + _counts(found.subscriptions))
    typer.echo("Emails: " + _counts(found.deliveries))
    if warm_up:
        typer.echo(
            f"Warm-up, day {warm_up['day']} of {warm_up['days']}: {warm_up['left']} letters may still leave today"
        )
    for each in found.kept_back:
        typer.echo(_describe_kept_back(each, zone))
    if found.due and not found.workers:
        typer.echo("Nobody is sending: start `newsletter run`, or `newsletter worker`.")
    if found.possibly_doubled:
        typer.echo(f"Possibly doubled: {found.possibly_doubled}")
    if found.deliveries["held"] or found.deliveries["uncertain"]:
        typer.echo("`newsletter deliveries list` shows what is held or uncertain.")


def _warm_up(connection: Connection, settings: Settings, *, now: datetime) -> dict[str, int] | None:
    """How far the warm-up has come; None where there is none, or where it is over."""
    from newsletter.domain.cadence import local_date
    from newsletter.domain.rates import progress_on
    from newsletter.store.reports import warm_up_progress

    plan = settings.warm_up_plan
    if plan is None:
        return None
    today = local_date(now, settings.timezone)
    progress = progress_on(today, warm_up_progress(connection, plan.plan))
    left = plan.allowance(progress)
    return None if left is None else {"day": progress.day, "days": len(plan.days), "left": left}


def _describe_kept_back(each: KeptBack, zone: str) -> str:
    name = "the mail server" if each.name == "relay" else each.name
    if each.refuses_since is None:
        until = f"nothing until {local(each.until, zone)}, then less" if each.until else "less than is due"
        return f"Slowed: {name} wants less mail: {until}. It said: {each.reply}"
    again = f"one letter is tried {local(each.until, zone)}" if each.until else "one letter is tried next"
    return (
        f"Kept back: {name} refuses us since {local(each.refuses_since, zone)}; {again}. It said: {each.reply}\n"
        f"  Mend the cause; then `newsletter start {each.name}` lets all go on, and"
        " `newsletter deliveries release --all` what was refused."
    )


def explain(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="A reader's e-mail address.")],
    as_json: _AsJson = False,
) -> None:
    """The next letter, when and why; and why any past one was late, skipped, withdrawn or doubled."""
    with opened_app() as newsletter:
        dossier = find_dossier(newsletter, address)
        names = step_names(newsletter)
        upcoming = newsletter.overseeing.upcoming_steps(dossier.subscriber.id)
        suppressed = newsletter.overseeing.suppression_reason(dossier.subscriber.address_key)
    explained = [_explain(record, dossier, names, upcoming.get(record.id)) for record in dossier.subscriptions]
    if as_json:
        print_json({"address": dossier.subscriber.address, "suppressed": suppressed, "subscriptions": explained})
        return
    typer.echo(f"{dossier.subscriber.address}, {dossier.subscriber.slot}")
    if suppressed:
        typer.echo(f"Suppressed: {suppressed}. Only the reader's own confirmed wish revives it.")
    for item in explained:
        typer.echo(f"\n{item['sequence']} ({item['state']}): {item['says']}")
        for line in item["past"]:
            typer.echo(f"  {line}")


def _explain(
    record: Subscription, dossier: Dossier, names: dict[tuple[str, str], str], step: str | None
) -> dict[str, Any]:
    zone = dossier.subscriber.slot.timezone
    letters = [item for item in dossier.deliveries if item.subscription_id == record.id and item.step]
    waiting = dossier.waiting.get(record.id)
    says = _next(record, waiting, names, step, zone)
    unsent = next((item for item in dossier.deliveries if item.kind == "confirmation" and item.state == "held"), None)
    if record.state == "pending" and unsent is not None:
        says += f". The mail that asks them is held ({unsent.reason}); `newsletter deliveries list` shows it"
    past = [
        (item.sent_at or item.due_at, _past(item, names, zone))
        for item in letters
        if waiting is None or item.id != waiting.id
    ]
    past += [
        (event.at, _happened(event, zone))
        for event in dossier.events
        if event.kind in _TOLD and event.subscription_id in (None, record.id)
    ]
    plain = describe_subscription(record, names, waiting)
    plain["next_step"] = step
    plain["open_delivery"] = None if waiting is None else {"state": waiting.state.value, "reason": waiting.reason}
    return {**plain, "says": says, "past": [line for _, line in sorted(past)]}


def _next(
    record: Subscription,
    waiting: Delivery | None,
    names: dict[tuple[str, str], str],
    step: str | None,
    zone: str,
) -> str:
    if waiting is not None:
        name = names.get((record.sequence_key, waiting.step or ""), waiting.step)
        tried = f", tried again from {local(waiting.next_try_at, zone)}" if waiting.state != "held" else ""
        why = f" ({waiting.reason})" if waiting.reason else ""
        return f"{name} is {waiting.state.value.replace('_', ' ')}{why}, due {local(waiting.due_at, zone)}{tried}"
    if record.next_due_at is not None:
        rule = _RULES.get(record.due_rule or "", record.due_rule or "")
        return f"next is {step or 'the end'}, on {local(record.next_due_at, zone)}: {rule}"
    return _STATES.get(record.state.value, "nothing is due")


def _happened(event: Event, zone: str) -> str:
    detail = describe_detail(event.detail, zone)
    return f"{local(event.at, zone)}: {event.kind.replace('_', ' ')}" + (f" ({detail})" if detail else "")


def _past(item: Delivery, names: dict[tuple[str, str], str], zone: str) -> str:
    name = names.get((item.sequence_key or "", item.step or ""), item.step)
    when = local(item.sent_at or item.due_at, zone)
    doubt = "; possibly doubled: it was handed over once without an answer" if item.doubts else ""
    why = f" ({item.reason})" if item.reason else ""
    return f"{when}: {name} {item.state.value}{why}{doubt}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in counts.items() if count) or "none"
