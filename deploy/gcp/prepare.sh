#!/usr/bin/env bash
# Make, once, what deploy/gcp/cluster.yaml names: two service accounts, a role, a network that only ssh enters from one range.
#
#   PROJECT=my-project REGION=us-central1 SSH_FROM=203.0.113.7/32 BUCKET=my-studies bash deploy/gcp/prepare.sh
#   PROJECT=my-project REGION=us-central1 bash deploy/gcp/prepare.sh --remove
#
# It runs with your own login of gcloud. Workers reach the bucket and nothing else; the head may also launch and delete instances,
# and hand out the workers' account.
set -euo pipefail
: "${PROJECT:?set it to the id of the project}" "${REGION:?set it to a region, e.g. us-central1}"
folder=$(dirname "$(realpath "$0")")
domain=$PROJECT.iam.gserviceaccount.com

if [ "${1:-}" = --remove ]; then
  gcloud compute firewall-rules delete divfeat-inside divfeat-ssh --project "$PROJECT" --quiet
  gcloud compute networks subnets delete divfeat --project "$PROJECT" --region "$REGION" --quiet
  gcloud compute networks delete divfeat --project "$PROJECT" --quiet
  for account in head worker; do
    gcloud iam service-accounts delete "divfeat-$account@$domain" --project "$PROJECT" --quiet
  done
  gcloud iam roles delete divfeat_head --project "$PROJECT" --quiet
  exit 0
fi

: "${SSH_FROM:?set it to the addresses that may reach ssh, e.g. 203.0.113.7/32}" "${BUCKET:?set it to the bucket of the studies}"
case $SSH_FROM in
  */0) echo "error: SSH_FROM=$SSH_FROM is the whole internet; give your own address, e.g. 203.0.113.7/32" >&2; exit 1 ;;
  */*) ;;
  *) echo "error: SSH_FROM=$SSH_FROM is no range of addresses; give e.g. 203.0.113.7/32" >&2; exit 1 ;;
esac

for account in head worker; do
  gcloud iam service-accounts create "divfeat-$account" --project "$PROJECT" --display-name "divfeat $account"
  gcloud storage buckets add-iam-policy-binding "gs://$BUCKET" \
    --member "serviceAccount:divfeat-$account@$domain" --role roles/storage.objectUser
done
gcloud iam roles create divfeat_head --project "$PROJECT" --file "$folder/head-role.yaml"
gcloud projects add-iam-policy-binding "$PROJECT" --condition None \
  --member "serviceAccount:divfeat-head@$domain" --role "projects/$PROJECT/roles/divfeat_head"
gcloud iam service-accounts add-iam-policy-binding "divfeat-worker@$domain" --project "$PROJECT" \
  --member "serviceAccount:divfeat-head@$domain" --role roles/iam.serviceAccountUser

gcloud compute networks create divfeat --project "$PROJECT" --subnet-mode custom
gcloud compute networks subnets create divfeat --project "$PROJECT" --network divfeat --region "$REGION" --range 10.128.0.0/20
gcloud compute firewall-rules create divfeat-inside --project "$PROJECT" --network divfeat \
  --allow tcp,udp,icmp --source-ranges 10.128.0.0/20
gcloud compute firewall-rules create divfeat-ssh --project "$PROJECT" --network divfeat \
  --allow tcp:22 --source-ranges "$SSH_FROM"
