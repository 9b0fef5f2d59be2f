"""What credential and mark say together: one code and one sentence."""

from typing import Literal, get_args

from serving.provenance.credentials import UNTRUSTED, Credential

Code = Literal[
    "made_here", "mark_only", "altered", "watermark_scrubbed", "credential_forged",
    "other_signer", "nothing_found",
]  # fmt: skip

SENTENCES: dict[Code, str] = {
    "made_here": "Its credential holds, and its signer is believed here: it is as it was signed.",
    "mark_only": "It carries our mark and no credential: it was made here, and saved anew since.",
    "altered": "Its credential was signed by somebody who is believed here, but the picture was "
    "altered since, or is another one.",
    "watermark_scrubbed": "Its credential names a mark that its pixels do not carry: the mark was "
    "removed or did not survive what was done to it, or the credential is another picture's.",
    "credential_forged": "Its credential is forged or damaged: believe nothing that it says.",
    "other_signer": "Its credential holds, but nobody here vouches for its signer.",
    "nothing_found": "It carries neither a credential nor a mark that is known here. That proves "
    "nothing: both can be removed.",
}
"""The closed list of verdicts; codes are never renamed."""

assert set(SENTENCES) == set(get_args(Code))


def judge(credential: Credential, mark: str, *, markable: bool) -> Code:
    """Weigh what was found in one picture.

    Args:
        credential: What it carries.
        mark: What its pixels carry, as hexadecimal digits; empty: nothing was found.
        markable: Whether a mark would be found if it were there: the picture is large enough, and
            marks of the kind that the credential names can be read here.
    """
    if credential.state == "forged":
        return "credential_forged"
    if credential.state == "absent":
        return "mark_only" if mark else "nothing_found"
    if UNTRUSTED in credential.problems:
        # Whoever signs with a root of their own can say anything at all.
        return "other_signer" if credential.state == "unknown_signer" else "credential_forged"
    named = credential.made.watermark if credential.made else ""
    if named and named != mark and (markable or mark):
        return "watermark_scrubbed"
    return "altered" if credential.state == "altered" else "made_here"
