"""Uploads an encoder, as a folder of timm with a model card, to the Hugging Face Hub."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vicreg_platform.contract.model_facts import FolderFormat, ModelFacts
from vicreg_workers.encoder import Published, load_published
from vicreg_workers.export import export_folder
from vicreg_workers.failures import InfrastructureFailure, JobFailure, UserFailure
from vicreg_workers.weights import FOLDER

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError


def push_encoder(encoder: Published, facts: ModelFacts, repository: str, private: bool) -> str:
    """Upload an encoder in one commit; the repository is created if there is none.

    The token is huggingface_hub's: ``HF_TOKEN``, or that of ``hf auth login``. The address is
    ``HF_ENDPOINT``, or huggingface.co.

    Args:
        encoder: what to upload.
        facts: for its model card.
        repository: such as ``user/name``.
        private: whether only its owner may see it.

    Returns:
        The address of the repository.

    Raises:
        UserFailure: there is no token, or it may not write there; or the repository is public.
        InfrastructureFailure: the Hub is unreachable.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if get_token() is None:
        raise UserFailure(
            "there is no token of the Hugging Face Hub: set HF_TOKEN to one that may write, or run "
            "`hf auth login`"
        )
    disable_progress_bars()
    # The error of its HTTP client, which is requests, httpx or httpx2 by its version.
    client_error: type[Exception] = HfHubHTTPError.__mro__[1]
    hub = HfApi(library_name="vicreg")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # Before anything exists there: an encoder that timm cannot hold leaves no repository.
        export_folder(encoder, folder, facts, FolderFormat.HUGGINGFACE, f"hf-hub:{repository}")
        try:
            made = hub.create_repo(repository, private=private or None, exist_ok=True)
            if private and not hub.model_info(made.repo_id).private:
                raise UserFailure(f"{made.repo_id} exists and is public: make it private first")
            hub.upload_folder(
                repo_id=made.repo_id,
                folder_path=folder,
                commit_message=f"Encoder of {facts.name}",
                commit_description=f"Job {facts.job}",
            )
        except HFValidationError as error:
            raise UserFailure(f"{repository} is not a repository name: {error}") from None
        except HfHubHTTPError as error:
            raise _refused(repository, error) from None
        except (OSError, client_error) as error:
            raise InfrastructureFailure(f"{constants.ENDPOINT} is unreachable: {error}") from None
    return str(made)


def _refused(repository: str, error: HfHubHTTPError) -> JobFailure:
    status = error.response.status_code if error.response is not None else 0
    if status == 401:
        return UserFailure("the Hugging Face Hub does not know the token: set HF_TOKEN to another")
    if status == 403:
        return UserFailure(
            f"the token may not write to {repository}: use one with the role `write` of an account "
            "that may"
        )
    reason = error.server_message or f"it answered {status}"
    message = f"the Hugging Face Hub refused {repository}: {reason}"
    return InfrastructureFailure(message) if status >= 500 else UserFailure(message)


def main() -> None:
    """Upload an encoder, as ``vicreg push`` does, and print the repository's address."""
    parser = argparse.ArgumentParser(description="Upload an encoder; its facts are on stdin.")
    parser.add_argument("run", help="the MLflow run that has published it")
    parser.add_argument("repository", help="such as user/name")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--mlflow", required=True, help="address of the MLflow server")
    arguments = parser.parse_args()
    try:
        facts = ModelFacts.model_validate_json(sys.stdin.read())
        encoder = load_published(f"runs:/{arguments.run}/{FOLDER}", arguments.mlflow)
        print(push_encoder(encoder, facts, arguments.repository, arguments.private))
    except JobFailure as failure:
        sys.exit(" ".join(str(failure).split()))


if __name__ == "__main__":
    main()
