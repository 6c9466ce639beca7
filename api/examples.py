"""Ids that stand for things of the user in the documentation."""

EXAMPLES = {
    "model": "mdl_01kbexample000000000000001",
    "dataset": "ds_01kbexample000000000000002",
    "job": "job_01kbexample000000000000003",
    "artifact": "art_01kbexample000000000000004",
    "upload": "upl_01kbexample000000000000005",
    "template": "tpl_01kbexample000000000000006",
    "webhook": "whk_01kbexample000000000000007",
    "delivery": "dlv_01kbexample000000000000008",
}
"""Ids that the documentation page replaces by ids that exist."""
