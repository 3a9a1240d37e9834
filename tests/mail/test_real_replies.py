"""What the large providers and the common mail servers really answer, and what is made of it.

The texts are those of the sources named above each group, some of them cut short; addresses, host names and
session ids are replaced. Where a source does not say at which command a reply came, it stands at the one that the
reply speaks of.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from newsletter.domain.delivery import Outcome
from newsletter.mail import Stage, open_mailer, parse_mail_url
from newsletter.mail.base import verdict_of
from tests.mail.contract import build_envelope
from tests.support.smtp_server import Raw, SmtpServer


class Answer(NamedTuple):
    """A reply, and what it comes to.

    Attributes:
        says: "" for nothing more, "slow" for slowing down, "busy" for that where it is said several times in a row,
            "policy" for our own fault.
    """

    stage: str
    code: int
    text: str
    outcome: Outcome
    says: str = ""


DEAD, SOFT, OURS = Outcome.ADDRESS_DEAD, Outcome.DEFERRED, Outcome.REFUSED
THEIRS, AWAY = Outcome.RECIPIENT_REFUSED, Outcome.UNAVAILABLE

# https://support.google.com/a/answer/3726730 (Gmail SMTP errors and codes)
# ReceivingRatePerm: https://smtpfieldmanual.com/code/550
GMAIL = [
    Answer(
        "rcpt", 550,
        "5.1.1 The email account that you tried to reach does not exist. Please try\n"
        "5.1.1 double-checking the recipient's email address for typos or\n"
        "5.1.1 unnecessary spaces. Learn more at\n"
        "5.1.1  https://support.google.com/mail/?p=NoSuchUser x1 - gsmtp", DEAD,
    ),
    Answer("rcpt", 550, "5.2.1 The email account that you tried to reach is disabled.", DEAD),
    Answer("rcpt", 550, "5.2.1 The email account that you tried to reach is inactive. For more information, go to"
           " https://support.google.com/mail/?p=DisabledUser", DEAD),
    # A living mailbox that gets too much mail, with the status of a dead one.
    Answer("rcpt", 550, "5.2.1 The user you are trying to contact is receiving mail at a rate that prevents\n"
           "5.2.1 additional messages from being delivered. For more information, please\n"
           "5.2.1 visit https://support.google.com/mail/?p=ReceivingRatePerm - gsmtp", SOFT),
    Answer("rcpt", 450, "4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional"
           " messages from being delivered. Please resend your message at a later time.", SOFT),
    Answer("rcpt", 450, "4.2.1 The user you are trying to contact is receiving mail too quickly.", SOFT),
    Answer("rcpt", 452, "4.2.2 The recipient's inbox is out of storage space. Please direct the recipient to"
           " https://support.google.com/mail/?p=OverQuotaTemp", SOFT),
    Answer("rcpt", 552, "5.2.2 The recipient's inbox is out of storage space and inactive.", SOFT),
    Answer("dot", 451, "4.3.0 Mail server temporarily rejected message.", SOFT, "busy"),
    Answer("dot", 451, "4.4.2 Timeout - closing connection.", SOFT, "busy"),
    Answer("mail", 421, "4.4.5 Server busy, try again later.", AWAY, "slow"),
    Answer("dot", 421, "4.7.28 Gmail has detected an unusual rate of mail originating from your IP address. To protect"
           " our users from spam, mail has been temporarily rate limited.", SOFT, "slow"),
    Answer("dot", 421, "4.7.26 This mail has been rate limited because it is unauthenticated. Gmail requires all"
           " senders to authenticate with either SPF or DKIM.", SOFT, "slow"),
    Answer("dot", 451, "4.7.24 The SPF record of the sending domain has one or more suspicious entries.", SOFT, "slow"),
    Answer("dot", 550, "5.7.26 This mail has been blocked because the sender is unauthenticated. Gmail requires all"
           " senders to authenticate with either SPF or DKIM.", OURS, "policy"),
    Answer("dot", 550, "5.7.30 This mail has been blocked because DKIM does not pass. Gmail requires all large senders"
           " to authenticate with DKIM.", OURS, "policy"),
    Answer("dot", 550, "5.7.1 Our system has detected that this message is likely unsolicited mail.", OURS, "policy"),
    Answer("dot", 550, "5.7.25 The IP address sending this message does not have a PTR record setup.", OURS, "policy"),
    # As a relay: https://support.google.com/a/answer/6140680
    Answer("mail", 530, "5.7.0 Must issue a STARTTLS command first.", AWAY, "policy"),
    Answer("rcpt", 550, "5.4.5 Daily SMTP relay limit exceeded for user.", OURS),
    Answer("mail", 550, "5.7.0 Mail relay denied. Invalid credentials for relay.", OURS, "policy"),
]  # fmt: skip

# 550 5.5.0, 5.1.10 and 5.4.1: https://www.spamresource.com/2023/09/microsoft-multiple-types-of-invalid.html
# 4.7.650: https://forum.directadmin.com/threads/82240/ (S775)
# 4.7.500: https://github.com/sisimai/p5-sisimai/blob/master/lib/Sisimai/Rhost/Microsoft.pm
# S3150: https://sevencreative.co.uk/how-to-remove-yourself-from-the-hotmail-block-list/
# The rest: https://learn.microsoft.com/en-us/troubleshoot/exchange/email-delivery/ndr/
#   non-delivery-reports-in-exchange-online
MICROSOFT = [
    Answer("rcpt", 550, "5.5.0 Requested action not taken: mailbox unavailable (S2017062302)."
           " [HE1EUR01FT020.eop-EUR01.prod.protection.outlook.com 2023-09-19T15:05:34.324Z 08DBB71928CA8F8E]", THEIRS),
    Answer("rcpt", 550, "5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient maria@example.com not found by SMTP address"
           " lookup", DEAD),
    Answer("rcpt", 550, "5.4.1 Recipient address rejected: Access denied."
           " [CY4PEPF0000EE3C.namprd03.prod.outlook.com 2023-09-18T12:48:32.808Z 08DBB45899852BA7]", THEIRS),
    Answer("mail", 451, "4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation."
           " For e-mail delivery information, see https://aka.ms/postmaster (S775)", SOFT, "slow"),
    Answer("rcpt", 451, "4.7.500 Server busy. Please try again later from [192.0.2.1]. (AS843)", SOFT, "slow"),
    Answer("mail", 550, "5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet"
           " service provider since part of their network is on our block list (S3150).", OURS, "policy"),
    Answer("dot", 550, "5.7.515 Access denied, sending domain example.org doesn't meet the required authentication"
           " level.", OURS, "policy"),
    Answer("dot", 550, "5.7.509 Access denied, sending domain example.org does not pass DMARC verification.", OURS,
           "policy"),
    Answer("rcpt", 550, "5.7.606 Access denied, banned sending IP [192.0.2.1].", OURS, "policy"),
    Answer("rcpt", 550, "5.7.64 TenantAttribution; Relay Access Denied", OURS, "policy"),
    Answer("mail", 530, "5.7.57 SMTP; Client was not authenticated to send anonymous mail during MAIL FROM", AWAY,
           "policy"),
    Answer("dot", 432, "4.3.2 STOREDRV.Deliver; recipient thread limit exceeded", SOFT, "slow"),
    Answer("dot", 554, "5.6.0 Corrupt message content", OURS),
]  # fmt: skip

# Exchange Server: https://learn.microsoft.com/en-us/Exchange/mail-flow/non-delivery-reports-and-bounce-messages/
#   non-delivery-reports-and-bounce-messages
EXCHANGE = [
    Answer("rcpt", 550, "5.1.1 RESOLVER.ADR.ExRecipNotFound; not found", DEAD),
    Answer("rcpt", 550, "5.1.1 User unknown", DEAD),
    Answer("mail", 452, "4.3.1 Insufficient system resources", SOFT, "busy"),
    Answer("rcpt", 550, "5.7.1 Unable to relay", OURS, "policy"),
    Answer("rcpt", 550, "5.7.54 SMTP; Unable to relay recipient in non-accepted domain", OURS, "policy"),
    Answer("mail", 552, "5.3.4 Message size exceeds fixed maximum message size", OURS),
    Answer("open", 421, "4.3.2 Service not available, closing transmission channel", AWAY, "slow"),
    Answer("mail", 421, "4.3.2 System not accepting network messages", AWAY, "slow"),
]

# https://senders.yahooinc.com/smtp-error-codes and https://smtp.codes/yahoo (AOL has the same servers)
# dd: https://help.yahoo.com/l/in/yahoo/mail/original/abuse/abuse-57.html
YAHOO = [
    Answer("mail", 421, "4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user"
           " complaints - 4.16.55.1; see https://postmaster.yahooinc.com/error-codes", AWAY, "slow"),
    Answer("mail", 421, "Max message per connection reached, closing transmission channel", AWAY, "slow"),
    Answer("rcpt", 450, "User is receiving mail too quickly", SOFT),
    Answer("mail", 451, "mta1.mail.example.yahoo.com Resources temporarily unavailable. Please try again later"
           " [#4.16.1].", SOFT, "busy"),
    Answer("mail", 451, "Message temporarily deferred due to unresolvable RFC.5321 from domain. See"
           " https://senders.yahooinc.com/error-codes#unresolvable-from-domain", SOFT, "busy"),
    Answer("mail", 553, "5.7.1 [BL21] Connections will not be accepted from 192.0.2.1, because the ip is in Spamhaus's"
           " list; see http://postmaster.yahoo.com/550-bl23.html", OURS, "policy"),
    Answer("mail", 553, "5.7.2 [TSS09] All messages from 192.0.2.1 will be permanently deferred; Retrying will NOT"
           " succeed. See https://postmaster.yahooinc.com/error-codes", OURS, "policy"),
    Answer("dot", 550, "5.7.9 This mail has been blocked because the sender is unauthenticated. Yahoo requires all"
           " senders to authenticate with either SPF or DKIM.", OURS, "policy"),
    Answer("dot", 554, "5.7.9 Message not accepted for policy reasons. See https://postmaster.yahooinc.com/error-codes",
           OURS, "policy"),
    # After the dot nothing speaks of the recipient for certain.
    Answer("dot", 552, "1 Requested mail action aborted, mailbox not found", OURS),
    Answer("dot", 554, "30 Sorry, your message to maria@example.com cannot be delivered. This mailbox is disabled"
           " (554.30)", OURS),
    Answer("dot", 554, "delivery error: dd This user doesn't have a yahoo.com account (maria@yahoo.com) [0]", OURS),
    Answer("rcpt", 550, "relaying denied for <maria@yahoo.com>", SOFT),
]  # fmt: skip

# https://smtp.codes/icloud; the reply at the greeting, 5.1.6 and 5.2.2:
# https://github.com/sisimai/p5-sisimai/blob/master/lib/Sisimai/Rhost/Apple.pm
ICLOUD = [
    Answer("rcpt", 550, "5.1.1 <maria@icloud.com>: user does not exist", DEAD),
    Answer("rcpt", 550, "5.1.6 recipient no longer on server: maria@icloud.com", DEAD),
    Answer("rcpt", 552, "5.2.2 <maria@icloud.com>: user is over quota", SOFT),
    Answer("rcpt", 421, "4.7.1 Messages to maria@icloud.com deferred due to excessive volume. Try again later -"
           " https://support.apple.com/en-us/HT204137", AWAY, "slow"),
    Answer("rcpt", 451, "4.7.1 Service unavailable - try again later", SOFT, "slow"),
    Answer("rcpt", 450, "4.1.8 <letters@example.org>: Sender address rejected: Domain not found", SOFT),
    Answer("dot", 550, "5.7.1 [CS01] Message rejected due to local policy. Please visit"
           " https://support.apple.com/en-us/HT204137", OURS, "policy"),
    Answer("dot", 554, "5.7.1 [HME1] This message was blocked for failing both SPF and DKIM authentication checks.",
           OURS, "policy"),
    Answer("dot", 550, "5.7.1 Your email was rejected due to having a domain present in the Spamhaus DBL -- see"
           " https://www.spamhaus.org/dbl/", OURS, "policy"),
    Answer("open", 554, "mr1-smtpin001.me.com ESMTP not accepting connections", AWAY),
]  # fmt: skip

# https://postmaster.gmx.net/en/error-messages (no enhanced codes at all) and https://smtp.codes/unitedinternet/
# Rate limit: https://new-faq.comservice-ffo.de/smtp-fehlermeldungen-e-mail-fehler/
GMX_AND_WEB_DE = [
    Answer("rcpt", 550, "<maria@gmx.net>: Requested action not taken: mailbox unavailable", SOFT),
    Answer("rcpt", 550, "Requested action not taken: mailbox unavailable\nFor explanation visit"
           " https://postmaster.gmx.net/en/case?c=r0103", SOFT),
    Answer("dot", 550, "<letters@example.org>: Reject due to SPF policy. The originating IP of the message is not"
           " permitted by the domain owner", OURS),
    Answer("open", 554, "gmx.net (mxgmx104) Nemesis ESMTP Service not available\nNo SMTP service\nIP address is block"
           " listed.\nFor explanation visit https://postmaster.gmx.net/en/case?c=r0201&i=ip&v=192.0.2.1", AWAY),
    Answer("mail", 421, "Rate limit reached. Please try again later", AWAY, "slow"),
    Answer("rcpt", 450, "Reject due to policy violations.", SOFT, "busy"),
    Answer("dot", 451, "Requested action aborted: local error in processing", SOFT, "busy"),
]  # fmt: skip

# https://github.com/vdukhovni/postfix (postfix/src/smtpd/smtpd.c and smtpd_check.c)
# https://www.postfix.org/postconf.5.html (reject_* and *_reject_code); 4.2.0: https://postgrey.schweikert.ch/
POSTFIX = [
    Answer("rcpt", 550, "5.1.1 <maria@example.com>: Recipient address rejected: User unknown in virtual mailbox table",
           DEAD),
    Answer("rcpt", 556, "5.1.10 <maria@example.com>: Recipient address rejected: Domain example.com does not accept"
           " mail (nullMX)", DEAD),
    Answer("rcpt", 550, "5.1.2 <maria@example.com>: Recipient address rejected: Domain not found", DEAD),
    Answer("rcpt", 450, "4.1.1 <maria@example.com>: Recipient address rejected: unverified address", SOFT),
    Answer("rcpt", 450, "4.1.2 <maria@example.com>: Recipient address rejected: Domain not found", SOFT),
    Answer("rcpt", 450, "4.2.0 <maria@example.com>: Recipient address rejected: Greylisted", SOFT),
    Answer("mail", 452, "4.3.1 Insufficient system storage", SOFT, "busy"),
    Answer("rcpt", 450, "4.7.25 Client host rejected: cannot find your hostname, [192.0.2.1]", SOFT, "slow"),
    Answer("rcpt", 554, "5.7.1 <maria@example.com>: Relay access denied", OURS, "policy"),
    Answer("rcpt", 454, "4.7.1 <maria@example.com>: Relay access denied", SOFT, "slow"),
    Answer("rcpt", 504, "5.5.2 <localhost>: Helo command rejected: need fully-qualified hostname", OURS),
    Answer("rcpt", 553, "5.7.1 <letters@example.org>: Sender address rejected: not owned by user", OURS, "policy"),
    Answer("mail", 552, "5.3.4 Message size exceeds fixed limit", OURS),
    Answer("mail", 421, "4.7.0 mail.example.com Error: too many errors", AWAY, "slow"),
    Answer("open", 421, "4.7.0 mail.example.com Error: too many connections from 192.0.2.1", AWAY, "slow"),
]  # fmt: skip

# https://github.com/Exim/exim (src/src/configure.default, route.c, smtp_in.c)
# https://tomba.io/blog/550-unrouteable-address-550-sender-verify-failed
EXIM = [
    Answer("rcpt", 550, "Unrouteable address", SOFT),
    Answer("rcpt", 550, "relay not permitted", SOFT),
    Answer("rcpt", 550, "Verification failed for <letters@example.org>\nSender verify failed", SOFT),
    Answer("rcpt", 451, "Temporary local problem - please try later", SOFT, "busy"),
    Answer("dot", 550, "maximum allowed line length is 998 octets, got 1200", OURS),
]

# 5.7.0: https://smtp.codes/icloud and https://www.suped.com/email-deliverability/answers/
#   how-to-get-proofpoint-to-unblock-my-ip-address
# 5.1.0, 5.7.1: https://www.spambrella.com/faq/email-delivery-error-codes/
PROOFPOINT = [
    Answer("open", 554, "Blocked - see https://ipcheck.proofpoint.com/?ip=192.0.2.1", AWAY),
    Answer("mail", 550, "5.7.0 Blocked - see https://ipcheck.proofpoint.com/?ip=192.0.2.1", OURS, "policy"),
    Answer("mail", 554, "5.7.1 Service unavailable; client [192.0.2.1] blocked using Proofpoint Dynamic Reputation",
           OURS, "policy"),
    Answer("rcpt", 550, "5.7.1 <maria@example.com>: Recipient address rejected: User email address is marked as"
           " invalid.", OURS, "policy"),
    Answer("mail", 550, "5.1.0 sender rejected", OURS),
    Answer("rcpt", 452, "4.3.1 Insufficient system resources", SOFT, "busy"),
]  # fmt: skip

# https://mimecastsupport.zendesk.com/hc/en-us/articles/34000709564691-Policies-Mimecast-SMTP-Error-Codes
# (no enhanced codes at all)
MIMECAST = [
    Answer("rcpt", 550, "Invalid Recipient - https://community.mimecast.com/docs/DOC-1369#550", SOFT),
    Answer("rcpt", 451, "Internal resources are temporarily unavailable -"
           " https://community.mimecast.com/docs/DOC-1369#451", SOFT, "busy"),
    Answer("rcpt", 451, "IP temporarily blacklisted", SOFT, "busy"),
    Answer("mail", 421, "Unable to process connection at this time", AWAY, "slow"),
    Answer("mail", 550, "Administrative prohibition - envelope blocked", OURS),
    Answer("dot", 554, "Email rejected due to security policies", OURS),
    Answer("dot", 550, "DKIM Sender Invalid - envelope rejected", OURS),
]  # fmt: skip

# https://docs.aws.amazon.com/ses/latest/dg/troubleshoot-smtp.html and .../manage-sending-quotas-errors.html
AMAZON_SES = [
    Answer("dot", 454, "Throttling failure: Maximum sending rate exceeded", SOFT, "slow"),
    Answer("dot", 454, "Throttling failure: Daily message quota exceeded", SOFT, "slow"),
    Answer("open", 421, "Too many concurrent SMTP connections", AWAY, "slow"),
    Answer("dot", 451, "Temporary service failure", SOFT, "busy"),
    Answer("dot", 451, "Timeout waiting for data from client", SOFT, "busy"),
    Answer("mail", 530, "Authentication required", AWAY),
    Answer("open", 535, "Authentication Credentials Invalid", AWAY),
    Answer("dot", 554, "Message rejected: Email address is not verified. The following identities failed the check in"
           " region EU-WEST-1: letters@example.org", OURS),
    Answer("dot", 250, "Ok 0100019aaf9e1c42-6d2c1d52-5f5b-4d66-9d7c-000000000000-000000", Outcome.ACCEPTED),
]  # fmt: skip

# https://www.simplefastwebsites.com/errors/email/smtp-554-5-7-1-client-host-blocked-spamhaus/
# https://www.ionos.com/help/email/troubleshooting-mail-basicmail-business/error-messages-caused-by-undeliverable-email/
BLOCK_LISTS = [
    Answer("rcpt", 554, "5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org;"
           " https://www.spamhaus.org/query/ip/192.0.2.1", OURS, "policy"),
    Answer("rcpt", 550, "5.7.1 Service unavailable; Client host [192.0.2.1] blocked using b.barracudacentral.org",
           OURS, "policy"),
    Answer("open", 554, "5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", AWAY,
           "policy"),
    Answer("rcpt", 554, "Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", SOFT),
]  # fmt: skip

ANSWERS = {
    "gmail": GMAIL,
    "microsoft": MICROSOFT,
    "exchange": EXCHANGE,
    "yahoo": YAHOO,
    "icloud": ICLOUD,
    "gmx": GMX_AND_WEB_DE,
    "postfix": POSTFIX,
    "exim": EXIM,
    "proofpoint": PROOFPOINT,
    "mimecast": MIMECAST,
    "ses": AMAZON_SES,
    "blocklist": BLOCK_LISTS,
}


@pytest.mark.parametrize(
    "answer",
    [pytest.param(each, id=f"{who}-{each.stage}-{number}") for who, all_ in ANSWERS.items()
     for number, each in enumerate(all_)],
)  # fmt: skip
def test_what_is_made_of_it(answer: Answer) -> None:
    """Each reply at its stage has one meaning for the letter, and one for how we go on sending."""
    verdict = verdict_of(answer.stage, answer.code, answer.text, host="mx.example")
    assert verdict.outcome is answer.outcome
    said = {"slow": verdict.slow_down, "busy": verdict.busy, "policy": verdict.policy}
    assert [name for name, is_said in said.items() if is_said] == ([answer.says] if answer.says else [])


def test_nobody_is_suppressed_for_what_is_not_their_own() -> None:
    """An address dies of nothing but a refusal at RCPT, and never of our reputation, a rate or a full mailbox."""
    dead = [answer for group in ANSWERS.values() for answer in group if answer.outcome is DEAD]
    assert {(answer.stage, answer.code // 100, answer.says) for answer in dead} == {(Stage.RCPT, 5, "")}


@pytest.mark.parametrize("answer", [GMAIL[0], GMAIL[3]])
def test_lines_are_read_as_one_reply(smtp_server: SmtpServer, answer: Answer) -> None:
    """Every line of a long reply repeats the code; what arrives over the wire is judged alike."""
    *first, last = answer.text.split("\n")
    wire = "".join(f"550-{line}\r\n" for line in first) + f"550 {last}\r\n"
    smtp_server.script("rcpt", Raw(wire.encode()))
    mailer = open_mailer(parse_mail_url(smtp_server.url), local_hostname="worker.example")
    try:
        mailer.open()
        assert mailer.send(build_envelope()).outcome is answer.outcome
    finally:
        mailer.close()
