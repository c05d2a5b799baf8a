"""Print an environment for docker compose: random secrets, and base images by their digest."""

import secrets
import shutil
import subprocess

IMAGES = {"VICREG_PYTHON_IMAGE": "python:3.11-slim", "VICREG_POSTGRES_IMAGE": "postgres:17"}
"""The defaults of docker-compose.yml."""


def pinned(image: str) -> str | None:
    """The image with the digest that the Docker engine has of it; None if it has none."""
    # One for each registry that the engine has it from; Docker Hub's alone goes with this name.
    for name, _, digest in (found.partition("@") for found in digests(image)):
        exact = f"{image}@{digest}"
        # Some engines give one to an image that was built here, by which they cannot find it.
        if name.removeprefix("docker.io/").removeprefix("library/") == image.partition(":")[0]:
            return exact if digests(exact) else None
    return None


def digests(image: str) -> list[str]:
    """The names with digests of an image that the Docker engine has; nothing is pulled."""
    if shutil.which("docker") is None:
        return []
    asked = ["docker", "image", "inspect", "--format", '{{join .RepoDigests " "}}', image]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split()


def main() -> None:
    """Print the variables, one a line."""
    print(f"""\
POSTGRES_PASSWORD={secrets.token_urlsafe(24)}
MLFLOW_POSTGRES_PASSWORD={secrets.token_urlsafe(24)}
RAY_AUTH_TOKEN={secrets.token_urlsafe(32)}
VICREG_API_KEY=vk_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}""")
    for variable, image in IMAGES.items():
        if exact := pinned(image):
            print(f"{variable}={exact}")


if __name__ == "__main__":
    main()
