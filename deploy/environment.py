"""Print an environment for docker compose with random secrets."""

import secrets

print(f"""\
POSTGRES_PASSWORD={secrets.token_urlsafe(24)}
MLFLOW_POSTGRES_PASSWORD={secrets.token_urlsafe(24)}
RAY_AUTH_TOKEN={secrets.token_urlsafe(32)}
VICREG_API_KEY=vk_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}""")
