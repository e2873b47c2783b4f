"""``python -m deploy.kubernetes``: writes the files that are made of the rules and the dashboards."""

from deploy.kubernetes.files import write

write()
