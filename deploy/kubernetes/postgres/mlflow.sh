# Run by the image of PostgreSQL when it makes its databases: MLflow has a role of its own, which can
# do nothing to the platform's database.
psql -v ON_ERROR_STOP=1 -v password="$MLFLOW_POSTGRES_PASSWORD" \
  -U "$POSTGRES_USER" -d "$POSTGRES_DB" <<'SQL'
CREATE ROLE mlflow LOGIN PASSWORD :'password';
CREATE DATABASE mlflow OWNER mlflow;
REVOKE CONNECT ON DATABASE vicreg, mlflow FROM PUBLIC;
SQL
