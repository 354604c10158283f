"""Upload of an export to the Hugging Face Hub."""

import re
from pathlib import Path

from pnp.errors import UserError


def check_name(name: str) -> None:
    """Refuse what is no name on the Hub.

    Raises:
        UserError: it is not USER/NAME.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII):
        raise UserError(f"hub={name}: expected USER/NAME, for instance hub=ada/shapes.")


def upload(folder: Path, name: str, *, private: bool) -> str:
    """Put an export on the Hugging Face Hub, as one commit.

    Args:
        folder: written by `pnp-export`.
        name: `USER/NAME`; the repository is created if it does not exist.
        private: visibility of a repository that is created; an older one stays as it is.

    Returns:
        The address of the repository.

    Raises:
        UserError: the Hub refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi()  # the token is the environment's HF_TOKEN or the one of `hf auth login`
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="pnp-export")
    except Exception as error:  # no token, no right, no network: the library has a class for each
        raise UserError(
            f"the upload to {name} failed; {folder} is written and can be uploaded again. Check "
            f"the token (HF_TOKEN or `hf auth login`) and its right to write.\n{error}"
        ) from error
    return str(address)
