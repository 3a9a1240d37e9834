"""`newsletter subscribers …`."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from newsletter.cli.session import console, describe_detail, fail, local, opened_app, print_json

if TYPE_CHECKING:
    from newsletter.bootstrap import App
    from newsletter.domain.subscription import State
    from newsletter.store.reports import Delivery, Dossier, Subscription

app = typer.Typer(help="The people who get letters.", no_args_is_help=True, rich_markup_mode=None)

_Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="Their e-mail address.")]
_AsJson = Annotated[bool, typer.Option("--json", help="For a script.")]
_PAGE = 500


@app.command("add")
def add(
    address: _Address,
    sequence: Annotated[str | None, typer.Option(help="The sequence; the site's default otherwise.")] = None,
    timezone: Annotated[str | None, typer.Option(help="IANA zone, such as Europe/Berlin.")] = None,
    slot: Annotated[str | None, typer.Option(help="Weekday and local time, such as 'thu 08:00'.")] = None,
    country: Annotated[str | None, typer.Option(help="For help lines: a two-letter code.")] = None,
    discreet: Annotated[bool, typer.Option("--discreet", help="Plain sender and subjects.")] = False,
    consent: Annotated[
        str | None,
        typer.Option(metavar='"SOURCE, DATE"', help="Proof of consent; without it they confirm by mail."),
    ] = None,
) -> None:
    """Add somebody: they confirm by mail, unless there is dated proof of their consent."""
    with opened_app() as newsletter:
        from newsletter.service.subscribing import SignUp

        weekday, _, time = (slot or "").strip().partition(" ")
        signup = SignUp(
            email=address,
            sequence=sequence,
            timezone=timezone,
            weekday=weekday or None,
            time=time.strip() or None,
            country=country,
            discreet=discreet,
        )
        state = newsletter.subscribing.add(
            signup, consent=_parse_consent(consent, today=newsletter.clock.now().date()), now=newsletter.clock.now()
        )
    if state == "pending":
        typer.echo("Added. They are asked to confirm by mail; nothing else comes before that.")
    else:
        typer.echo(f"Added: {state}. `newsletter explain {address}` says when the next letter comes.")


@app.command("list")
def list_subscribers(
    state: Annotated[str | None, typer.Option(help="Only those with a subscription in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 1000,
    as_json: _AsJson = False,
) -> None:
    """Everybody, in order of address."""
    wanted = _parse_state(state)
    with opened_app() as newsletter:
        rows = _all(newsletter, wanted, limit)
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("address", "sequence", "state", "last step", "next letter"):
        table.add_column(heading)
    for row in rows:
        for item in row["subscriptions"] or [{}]:
            zone = row["timezone"]
            due = local(item.get("next_due_at"), zone)
            table.add_row(
                row["address"],
                item.get("sequence", ""),
                item.get("state", ""),
                item.get("last_step") or "",
                due,
            )
    console().print(table)


@app.command("show")
def show(address: _Address, as_json: _AsJson = False) -> None:
    """One subscriber: their slot, their sequences, their letters and what happened."""
    with opened_app() as newsletter:
        dossier = find_dossier(newsletter, address)
        plain = _describe(newsletter, dossier)
    if as_json:
        print_json(plain)
        return
    zone = dossier.subscriber.slot.timezone
    typer.echo(f"{dossier.subscriber.address}  ({dossier.subscriber.slot})")
    for item in plain["subscriptions"]:
        due = local(item["next_due_at"], zone)
        typer.echo(
            f"  {item['sequence']}: {item['state']}, round {item['round']}, {item['received']} received,"
            f" last step {item['last_step'] or '-'}, next letter {due}"
        )
    typer.echo("Letters and mails:")
    for mail in plain["deliveries"]:
        when = local(mail["sent_at"] or mail["due_at"], zone)
        step = f" {mail['sequence']}/{mail['step']}" if mail["step"] else ""
        doubt = ", possibly doubled" if mail["possibly_doubled"] else ""
        typer.echo(f"  {when}  {mail['kind']}{step}: {mail['state']}{doubt}  {mail['id']}")
    typer.echo("What happened:")
    for event in plain["events"]:
        detail = describe_detail(event["detail"], zone)
        typer.echo(f"  {local(event['at'], zone)}  {event['kind'].replace('_', ' ')}  {detail}".rstrip())


@app.command("pause")
def pause(
    address: _Address,
    weeks: Annotated[int | None, typer.Option(min=1, max=52, help="For so many weeks.")] = None,
    until: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="Until this local date.")] = None,
) -> None:
    """Hold a reader's letters: for some weeks, until a date, or until they are resumed."""
    if weeks is not None and until is not None:
        raise typer.BadParameter("Give --weeks or --until, not both.")
    with opened_app() as newsletter:
        from newsletter.domain.cadence import local_date

        dossier = find_dossier(newsletter, address)
        now = newsletter.clock.now()
        day = _parse_date(until)
        if weeks is not None:
            day = local_date(now, dossier.subscriber.slot.timezone) + timedelta(weeks=weeks)
        newsletter.overseeing.pause(address, until=day, now=now)
    typer.echo("Paused until they are resumed." if day is None else f"Paused until {day}.")


@app.command("resume")
def resume(address: _Address) -> None:
    """Let a reader's letters come again; they go on where they stopped."""
    with opened_app() as newsletter:
        newsletter.overseeing.resume(address, now=newsletter.clock.now())
    typer.echo(f"Resumed. `newsletter explain {address}` says when the next letter comes.")


def find_dossier(newsletter: App, address: str) -> Dossier:
    """Everything about the subscriber of an address; ends the command where there is none."""
    from newsletter.domain.addresses import parse_address
    from newsletter.store import reports

    with newsletter.database.read() as connection:
        found = reports.dossier(connection, address_key=parse_address(address).key)
    if found is None:
        fail("No subscriber has this address.")
    return found


def step_names(newsletter: App) -> dict[tuple[str, str], str]:
    """By sequence and identity: what a step is called now, as far as the live revision has it."""
    edition = newsletter.publishing.live()
    if edition is None:
        return {}
    return {
        (sequence.key, step.identity): step.key for sequence in edition.revision.sequences for step in sequence.steps
    }


def describe_subscription(
    record: Subscription,
    names: dict[tuple[str, str], str],
    waiting: Delivery | None,
    received: int | None = None,
) -> dict[str, Any]:
    """One subscription for a script. `waiting`: its letter that is planned and has not left."""
    plain: dict[str, Any] = {
        "sequence": record.sequence_key,
        "state": record.state.value,
        "round": record.round,
        "last_step": record.last_step and names.get((record.sequence_key, record.last_step), record.last_step),
        "next_due_at": record.next_due_at if waiting is None else waiting.due_at,
        "rule": record.due_rule,
        "last_letter_at": record.last_letter_at,
        "created_at": record.created_at,
        "confirmed_at": record.confirmed_at,
    }
    return plain if received is None else {**plain, "received": received}


def _describe(newsletter: App, dossier: Dossier) -> dict[str, Any]:
    names = step_names(newsletter)
    reader = dossier.subscriber
    return {
        "address": reader.address,
        "timezone": reader.slot.timezone,
        "slot": str(reader.slot).rpartition(" ")[0],
        "country": reader.country,
        "discreet": reader.discreet,
        "paused_until": reader.paused_until,
        "created_at": reader.created_at,
        "subscriptions": [
            describe_subscription(record, names, dossier.waiting.get(record.id), dossier.received[record.id])
            for record in dossier.subscriptions
        ],
        "deliveries": [
            {
                "id": str(item.id),
                "kind": item.kind.value,
                "sequence": item.sequence_key,
                "round": item.round,
                "step": item.step and names.get((item.sequence_key or "", item.step), item.step),
                "state": item.state.value,
                "due_at": item.due_at,
                "next_try_at": item.next_try_at,
                "sent_at": item.sent_at,
                "attempts": item.attempt,
                "possibly_doubled": item.doubts > 0,
                "revision": item.revision,
                "message_id": item.message_id,
                "affirmation": item.affirmation,
                "posts": item.posts,
                "reply_code": item.reply_code,
                "reply_text": item.reply_text,
                "reason": item.reason,
            }
            for item in dossier.deliveries
        ],
        "events": [{"at": event.at, "kind": event.kind, "detail": event.detail} for event in dossier.events],
    }


def _all(newsletter: App, state: State | None, limit: int) -> list[dict[str, Any]]:
    from newsletter.store import reports

    names, after = step_names(newsletter), ""
    rows: list[dict[str, Any]] = []
    while len(rows) < limit:
        with newsletter.database.read() as connection:
            page = reports.find_all(connection, state=state, after=after, limit=min(_PAGE, limit - len(rows)))
            waiting = reports.open_letters(connection, [reader.id for reader, _ in page])
        if not page:
            break
        after = page[-1][0].address_key
        rows += [
            {
                "address": reader.address,
                "timezone": reader.slot.timezone,
                "slot": str(reader.slot).rpartition(" ")[0],
                "subscriptions": [describe_subscription(record, names, waiting.get(record.id)) for record in records],
            }
            for reader, records in page
        ]
    return rows


def _parse_consent(consent: str | None, *, today: date) -> str | None:
    if consent is None:
        return None
    source, _, day = consent.rpartition(",")
    try:
        given = date.fromisoformat(day.strip())
    except ValueError:
        given, source = today, ""
    if given > today + timedelta(days=1):  # it may be tomorrow already where they are
        raise typer.BadParameter("The date of this consent is still to come; write the day on which it was given.")
    if not source.strip():
        raise typer.BadParameter('Write the source and the date: --consent "paper form, 2026-11-02".')
    return consent


def _parse_state(state: str | None) -> State | None:
    from newsletter.domain.subscription import State as SubscriptionState

    if state is None:
        return None
    try:
        return SubscriptionState(state)
    except ValueError:
        known = ", ".join(SubscriptionState)
        raise typer.BadParameter(f"{state!r} is no state; write one of {known}.") from None


def _parse_date(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date; write 2026-12-31.") from None
