from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from wsbus import JWT, Handshake, parse_channel, parse_pattern
from wsbus.cli import wsbus
from wsbus.cli.claims import duration, in_words

SECRET: Final = "for tests: at least 32 bytes long"
ANYWHERE: Final = Handshake(path="/ws")


def run(*arguments: str, stdin: str | None = None, secret: str = SECRET) -> Result:
    """Run ``wsbus token`` with the secret in a variable."""
    return CliRunner().invoke(
        wsbus, ["token", *arguments], input=stdin, env={"SECRET": secret}, prog_name="wsbus"
    )


def made(*options: str) -> str:
    """Return a token that was made with these options."""
    outcome = run("make", "--secret-env", "SECRET", "--subject", "ada", *options)
    assert outcome.exit_code == 0, outcome.stderr
    return outcome.stdout.strip()


def signed(**claims: Any) -> str:
    """Return a token that some other program made."""
    return jwt.encode(claims, SECRET)


# --- make ----------------------------------------------------------------------------------------


def test_what_is_made_a_server_takes() -> None:
    """A made token is that of its subject, with the grants, the claims and the time asked for."""
    token = made(
        *("--grant", "subscribe=grid.*", "--grant", "subscribe=prices"),
        *("--grant", "command=grid.start", "--grant", "deny_subscribe=grid.log"),
        *("--claim", 'team="night shift"', "--claim", "level=3", "--expires", "1h30m"),
    )

    identity = JWT(SECRET)(token, ANYWHERE)

    assert identity is not None
    assert identity.subject == "ada"
    assert identity.grants.may_subscribe(parse_pattern("grid.abc.*"))
    assert identity.grants.may_subscribe(parse_pattern("prices"))
    assert not identity.grants.may_receive(parse_channel("grid.log"))
    assert identity.grants.may_command("grid.start")
    assert not identity.grants.may_command("grid.stop")
    assert not identity.grants.may_publish(parse_channel("grid.abc"))
    assert identity.expires_at == pytest.approx(time.time() + 5400, abs=5)
    assert (identity.claims["team"], identity.claims["level"]) == ("night shift", 3)


def test_admin_is_a_grant_of_its_own() -> None:
    """``--admin`` covers every subscription, and without it nothing is granted."""
    admin = JWT(SECRET)(made("--admin"), ANYWHERE)
    nobody = JWT(SECRET)(made(), ANYWHERE)

    assert admin is not None
    assert nobody is not None
    assert admin.grants.may_subscribe(parse_pattern("*"))
    assert not nobody.grants.may_subscribe(parse_pattern("a"))


def test_the_token_alone_is_on_stdout() -> None:
    """Scripts get the token and nothing else; for whom and for how long goes to stderr."""
    outcome = run("make", "--secret-env", "SECRET", "--subject", "ada")

    assert jwt.decode(outcome.stdout.strip(), SECRET, algorithms=["HS256"])["sub"] == "ada"
    assert outcome.stdout.count("\n") == 1
    assert outcome.stderr == "for ada; expires in 1 hour\n"


def test_make_prints_json() -> None:
    """With ``--json`` the token comes with its claims."""
    outcome = run("make", "--secret-env", "SECRET", "--subject", "ada", "--json", "--expires", "5m")

    found = json.loads(outcome.stdout)
    assert jwt.decode(found["token"], SECRET, algorithms=["HS256"]) == found["claims"]


@pytest.mark.parametrize("content", [SECRET, f"{SECRET}\n", f"{SECRET}\r\n"])
def test_a_secret_may_be_in_a_file(tmp_path: Path, content: str) -> None:
    """The newline that editors put at the end of a file is not part of the secret."""
    path = tmp_path / "secret"
    path.write_text(content, newline="")

    outcome = run("make", "--secret-file", str(path), "--subject", "ada")

    assert JWT(SECRET)(outcome.stdout.strip(), ANYWHERE) is not None


def test_a_short_secret_is_told() -> None:
    """A secret that is shorter than its algorithm wants is told of, and used."""
    outcome = run("make", "--secret-env", "SECRET", "--subject", "ada", secret="short")

    assert outcome.exit_code == 0
    assert "this secret is short: HS256 wants 32 bytes or more" in outcome.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "give --secret-env or --secret-file"),
        (["--secret-env", "SECRET", "--secret-file", "x"], "not both"),
        (["--secret-env", "s3cr3t"], "--secret-env names no variable that is set"),
        (["--secret-file", "nowhere"], "nowhere cannot be read: No such file"),
        (["--secret-env", "SECRET", "--subject", ""], "the subject must be printable"),
        (["--secret-env", "SECRET", "--expires", "soon"], "'soon' is no duration"),
        (["--secret-env", "SECRET", "--expires", "0s"], "should live longer"),
        (["--secret-env", "SECRET", "--grant", "grid.*"], "--grant is NAME=PATTERN"),
        (["--secret-env", "SECRET", "--grant", "read=a"], "NAME is of: subscribe, publish"),
        (["--secret-env", "SECRET", "--grant", "publish=a..b"], "a pattern of --grant is none"),
        (["--secret-env", "SECRET", "--claim", "team"], "--claim is NAME=JSON"),
        (["--secret-env", "SECRET", "--claim", "team=night"], "the claim team is no JSON"),
        (["--secret-env", "SECRET", "--claim", "exp=1"], "option of its own: --expires"),
        (["--secret-env", "SECRET", "--claim", "publish=[]"], "option of its own: --grant"),
        (["--secret-env", "SECRET", "--claim", "iss=1"], "no token can be made"),
        (["--secret-env", "SECRET", "--algorithm", "HS1"], "'HS1' is not one of"),
    ],
)
def test_what_servers_would_refuse_is_not_made(options: list[str], says: str) -> None:
    """What makes no sense, or no server would take, is said in a sentence, with exit code 2."""
    outcome = run("make", "--subject", "ada", *options)

    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert says in outcome.stderr
    assert SECRET not in outcome.stderr
    assert "s3cr3t" not in outcome.stderr


# --- show ----------------------------------------------------------------------------------------


def test_without_a_secret_nothing_is_verified_and_that_is_said() -> None:
    """The claims are shown, and loudly that anybody can have written them."""
    token = made("--grant", "subscribe=grid.*", "--grant", "subscribe=b", "--expires", "2h")

    outcome = run("show", token)

    assert outcome.exit_code == 0
    assert outcome.stderr.startswith("NOT VERIFIED: anybody can have written this")
    rows = dict(line.split("  ", 1) for line in outcome.stdout.splitlines())
    assert {heading: words.strip() for heading, words in rows.items()} == {
        "verified": "NO",
        "header": '{"alg":"HS256","typ":"JWT"}',
        "subject": "ada",
        "expires": rows["expires"].strip(),
        "may subscribe": "grid.*, b",
    }
    assert "in 1 hour 59 minutes (" in rows["expires"]


def test_with_the_secret_it_is_verified() -> None:
    """A token that a server takes is said to be right, and nothing is on stderr."""
    outcome = run("show", "-", "--secret-env", "SECRET", stdin=f"{made()}\n")

    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert "verified           yes\n" in outcome.stdout


def test_show_prints_json() -> None:
    """With ``--json`` header, claims, verdict and the seconds that are left are one object."""
    token = made("--expires", "60")

    shown = json.loads(run("show", token, "--json").stdout)
    verified = json.loads(run("show", token, "--json", "--secret-env", "SECRET").stdout)

    assert (shown["verified"], verified["verified"], verified["refused"]) == (None, True, None)
    assert shown["header"]["alg"] == "HS256"
    assert shown["claims"]["sub"] == "ada"
    assert 50 < shown["expires_in"] <= 60


@pytest.mark.parametrize(
    ("claims", "options", "says"),
    [
        ({"sub": "a", "exp": 2**40}, ["--algorithm", "HS512"], "not signed for HS512"),
        ({"sub": "a", "exp": 1}, [], "the token has expired"),
        ({"sub": "a"}, [], "a claim is missing or wrong"),
        ({"exp": 2**40}, [], "a claim is missing or wrong"),
        ({"sub": "a", "exp": 2**40, "aud": "x"}, [], "a claim is missing or wrong"),
        ({"sub": "a", "exp": 2**40, "iss": "x"}, ["--issuer", "y"], "a claim is missing or wrong"),
        ({"sub": "a", "exp": 2**40, "publish": ["a..b"]}, [], "a pattern in the token"),
        ({"sub": "a", "exp": 2**40, "publish": "a"}, [], "`publish` is not a list"),
        ({"sub": "a", "exp": 2**40, "admin": 1}, [], "`admin` is not true or false"),
    ],
)
def test_what_a_server_refuses_is_refused(
    claims: dict[str, Any], options: list[str], says: str
) -> None:
    """With a secret the exit code tells whether a server takes the token, and a sentence why not.

    What it says is shown all the same.
    """
    outcome = run("show", signed(**claims), "--secret-env", "SECRET", *options)

    assert outcome.exit_code == 1
    assert says in outcome.stderr
    assert "REFUSED: " in outcome.stdout
    assert says in outcome.stdout
    assert "expires" in outcome.stdout


def test_a_wrong_secret_is_told() -> None:
    """A signature that another secret made is wrong, whatever the claims."""
    outcome = run(
        "show", made(), "--secret-env", "SECRET", secret="another one, 32 bytes or longer"
    )

    assert outcome.exit_code == 1
    assert "the signature is WRONG for this secret" in outcome.stderr


def test_the_audience_and_the_issuer_can_be_given() -> None:
    """A token for somebody is right if that is what the server looks for."""
    token = signed(sub="a", exp=2**40, aud="app", iss="me")

    outcome = run("show", token, "--secret-env", "SECRET", "--audience", "app", "--issuer", "me")

    assert outcome.exit_code == 0


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"exp": 1}, "EXPIRED (1970-01-01 00:00:01 UTC)"),
        ({}, "never: servers refuse it"),
        ({"exp": "soon"}, "soon, which is no time"),
        ({"exp": True}, "true, which is no time"),
        ({"exp": 10**30}, "which is no time"),
        ({"exp": 10**14}, "in 115"),
        ({"sub": "a\x1b[2J\u202e"}, r"a\u001b[2J\u202e"),
        ({"a\nb": 1}, r"a\nb"),
        ({"admin": True}, "may subscribe to everything"),
        ({"admin": "yes"}, "yes"),
        ({"publish": [1]}, "[1]"),
    ],
)
def test_anything_can_be_shown(claims: dict[str, Any], says: str) -> None:
    """Whatever a token holds is shown, in words, and does nothing to the terminal."""
    outcome = run("show", signed(**claims))

    assert outcome.exit_code == 0
    assert says in outcome.stdout
    assert outcome.stdout.replace("\n", "").isprintable()


@pytest.mark.parametrize("text", ["abc", "a.b.c", "", "eyJhbGciOiJIUzI1NiJ9.WzFd.AA", "ä.ö.ü"])
def test_what_is_no_token_is_told(text: str) -> None:
    """Text that is no token ends it with exit code 2, and is not repeated."""
    outcome = run("show", "-", stdin=text)

    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr == "Error: this is no JSON Web Token\n"


# --- words ---------------------------------------------------------------------------------------


@given(st.integers(1, 10**8))
def test_a_duration_means_the_sum_of_its_parts(seconds: int) -> None:
    """Days, hours, minutes and seconds add up; a bare number is seconds."""
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)

    assert duration(f"{days}d{hours}h{minutes}m{rest}s") == duration(str(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 seconds"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (-61, "1 minute 1 second"),
        (3600, "1 hour"),
        (3659, "1 hour"),
        (90_000, "1 day 1 hour"),
        (86400 * 40, "40 days"),
    ],
)
def test_durations_are_said_as_people_do(seconds: float, words: str) -> None:
    """The two largest units are enough, and one is one."""
    assert in_words(seconds) == words


def test_without_its_extra_it_says_what_to_install() -> None:
    """Where PyJWT is missing, the exit status is 2 and stderr has the install line."""
    program = (
        "import sys; sys.modules['jwt'] = None; sys.argv = ['wsbus', 'token', 'show', 'a'];"
        "from wsbus.__main__ import main; main()"
    )

    outcome = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert outcome.stderr == "Error: wsbus token needs more: pip install 'wsbus[jwt]'\n"
