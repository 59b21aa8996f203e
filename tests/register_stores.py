"""Registers artifact stores with the ZenML that runs this: ``python register_stores.py wanted.json``.

secrets: name to values. connectors: name to connector_type, auth_method, resource_types, configuration and secrets.
stores: name to flavor, configuration and, perhaps, connector.
"""
# mypy: ignore-errors
# it runs with releases whose classes have other names, in Python 3.8

import json
import sys

import zenml.models
from zenml.client import Client
from zenml.enums import StackComponentType


def main(wanted):
    client = Client()
    for name, values in wanted["secrets"].items():
        client.create_secret(name=name, values=values)
    for name, values in wanted["connectors"].items():
        # as the client does, which would also log in
        request = getattr(zenml.models, "ServiceConnectorRequestModel", None) or zenml.models.ServiceConnectorRequest
        fields = getattr(request, "model_fields", None) or request.__fields__
        if "workspace" in fields:
            values["workspace"] = client.active_workspace.id
        if "secrets" not in fields:  # one configuration for both in 0.98.0, where they are kept apart still
            values["configuration"].update(values.pop("secrets"))
        request = request(name=name, user=client.active_user.id, supports_instances=True, **values)
        client.zen_store.create_service_connector(request)
    for name, values in wanted["stores"].items():
        kind = StackComponentType.ARTIFACT_STORE
        client.create_stack_component(name, values["flavor"], kind, values["configuration"])
        if "connector" in values:
            connector = client.get_service_connector(values["connector"])
            client.update_stack_component(name, kind, connector_id=connector.id)


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        main(json.load(file))
