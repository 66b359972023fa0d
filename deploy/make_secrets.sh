#!/bin/sh
# Makes the passwords and the API key that docker-compose.yml takes from deploy/secrets/:
#
#   sh deploy/make_secrets.sh [folder]
#
# All or nothing, and never twice: a new password would not open the database that the old one made.
#
# The folder is closed to everyone else on this machine (0700). The files in it are readable (0444), because Compose
# mounts them as they are, and the containers read them under users of their own.
set -eu

folder="${1:-$(dirname "$0")/secrets}"
folder="${folder%/}"
if [ -e "$folder" ]; then
  echo "$folder exists: nothing changed. To change a password or key, see docs/deployment.md." >&2
  exit 1
fi

random() {  # 256 bits; hexadecimal needs no quoting in a URL
  value="$(od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n')"
  if [ "${#value}" -ne 64 ]; then
    echo "cannot read /dev/urandom" >&2
    exit 1
  fi
  printf '%s' "$value"
}

umask 077
mkdir -p "$(dirname "$folder")"
new="$(mktemp -d "$folder.XXXXXX")"
trap 'rm -rf "$new"' EXIT

postgres_password="$(random)"
redis_password="$(random)"
api_key="$(random)"
printf '%s' "$postgres_password" > "$new/postgres_password"
printf 'postgresql://odeness:%s@postgres:5432/odeness' "$postgres_password" > "$new/database_url"
printf 'requirepass %s\n' "$redis_password" > "$new/redis.conf"
printf 'redis://:%s@redis:6379/0' "$redis_password" > "$new/broker_url"
printf '%s' "$api_key" > "$new/api_key"
chmod 0444 "$new"/*

mv "$new" "$folder"
trap - EXIT
echo "made $folder; the API key for clients is in $folder/api_key"
