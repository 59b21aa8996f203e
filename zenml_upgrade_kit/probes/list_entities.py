"""Opens a copy of a store with this environment's ZenML and lists by name what its client shows to people.

Called as ``python -I list_entities.py request.json reply.json`` with ZENML_STORE_URL set to the copy. The request:
``limit``, how many of each kind to list at most, 0 for totals alone. The reply:

- ``zenml`` (its version); ``user``, ``active_stack``, ``active_project``: names;
- totals over all projects: ``runs``, ``stacks``, ``artifact_versions``;
- ``entities``: per kind a list of objects with ``name``, ``id`` (artifacts: none before 0.51, when only their versions
  had one), ``project`` where there are several, and what else is told of that kind; kinds that the release lacks are
  missing. ``flavors_custom`` are those that are not built in; ``projects`` were called workspaces before 0.80;
- ``cut``: kinds that have more than ``limit``, or than :data:`HEAVY` says, and how many;
- ``errors``: kinds and totals that cannot be listed, and the first line of why.

Values of secrets are fetched, which shows whether they can be read, and thrown away.
"""

import functools
import inspect
import json
import sys
import typing

PAGE = 100
HEAVY = {"runs": ("runs", 100), "artifacts": ("artifact_versions", 10000)}
"""Kinds that are not listed where there is more than so much: with 8,000 runs one of them takes 0.70 0.7 s."""
PAGES = 200
"""Of one kind at most: 0.43 names an artifact once for each of its versions."""
KINDS = (
    ("users", ["list_users"], ["is_admin", "active"]),
    ("runs", ["list_pipeline_runs", "list_runs"], ["status"]),
    ("pipelines", ["list_pipelines"], []),
    ("stacks", ["list_stacks"], []),
    ("components", ["list_stack_components"], ["type", "flavor"]),
    ("schedules", ["list_schedules"], ["active"]),
    ("models", ["list_models"], []),
    ("artifacts", ["list_artifacts"], []),
    ("tags", ["list_tags"], []),
    ("service_accounts", ["list_service_accounts"], ["active"]),
    ("flavors_custom", ["list_flavors"], ["type"]),
    ("code_repositories", ["list_code_repositories"], []),
    ("service_connectors", ["list_service_connectors"], []),
)
TOTALS = (
    ("runs", ["list_pipeline_runs", "list_runs"]),
    ("stacks", ["list_stacks"]),
    ("artifact_versions", ["list_artifact_versions", "list_artifacts"]),  # which listed versions before 0.51
)


def listing(client, names):
    """Functions of page, size and a project that list everything by the first of these methods that the client has.

    Also, whether the method can be asked for one project.
    """
    method = next((getattr(client, name) for name in names if hasattr(client, name)), None)
    if method is None:
        return [], False
    known = inspect.getclosurevars(getattr(method, "__func__", method)).nonlocals
    written = known.get("func", method)  # 0.55 wraps what the client can do, and hides what it can be asked
    parameters = inspect.signature(written).parameters
    scope = next((name for name in ("project", "workspace_id") if name in parameters), None)
    more = {"sort_by": "desc:created"} if "sort_by" in parameters else {}  # what is cut is the oldest, on both sides
    archived = [{}]
    if "is_archived" in parameters:  # or else archived schedules are left out
        either = typing.get_type_hints(written)["is_archived"] is not bool  # 0.94 lists the ones or the others
        archived = [{"is_archived": value} for value in ([None] if either else [False, True])]
    if names == ["list_flavors"] and "hydrate" in parameters:
        more["hydrate"] = True  # else each is fetched again to tell whether it is custom

    def ask(which, page, size, project):
        if "page" in parameters:
            return method(page=page, size=size, **more, **which, **({scope: project.id} if scope and project else {}))
        # tags want a filter, up to 0.70
        name, kind = next(item for item in typing.get_type_hints(written).items() if item[0] != "return")
        return method(**{name: kind(page=page, size=size)})

    return [functools.partial(ask, which) for which in archived], bool(scope)


class Lister:
    """Asks a client for everything, project by project."""

    def __init__(self, client, limit):
        self.client, self.limit = client, limit
        self.entities, self.cut, self.errors, self.totals = {}, {}, {}, {}
        self.user = self.attempt("user", lambda: client.active_user.name)

    def attempt(self, kind, ask, *arguments):
        """What ask returns; None when it fails, which is then an error of the kind."""
        try:
            return ask(*arguments)
        except Exception as error:
            line = (str(error).strip().splitlines() or [""])[0]
            self.errors.setdefault(kind, ("%s: %s" % (type(error).__name__, line))[:500])

    def everything(self):
        """Lists and counts in every project; they were called workspaces before 0.80."""
        projects = self.attempt("projects", self.projects) or [None]
        self.several = len(projects) > 1
        for project in projects:
            if project is not None:
                self.attempt("projects", self.enter, project)
            for kind, names in TOTALS:
                self.attempt(kind, self.count, kind, names, project)
            for kind, names, fields in KINDS if self.limit else ():
                self.attempt(kind, self.collect, kind, names, fields, project)
            if self.limit:
                self.attempt("secrets", self.secrets, project)

    def projects(self):
        (ask,), _ = listing(self.client, ["list_projects", "list_workspaces"])
        found, page, pages = [], 1, 1
        while page <= pages:
            answer = ask(page, PAGE, None)
            found, page, pages = found + list(answer.items), page + 1, answer.total_pages
        if self.limit:
            self.entities["projects"] = {str(one.id): {"name": one.name, "id": str(one.id)} for one in found}
        return found

    def enter(self, project):
        """Make it the active one of this process; setting it wants a default stack in it, up to 0.75."""
        cls = type(self.client)
        name = "active_project" if hasattr(cls, "active_project") else "active_workspace"
        setattr(cls, name, property(lambda _: project))

    def count(self, kind, names, project):
        (ask,), scoped = listing(self.client, names)
        total = ask(1, 1, project).total
        known = self.totals.get(kind, 0)
        self.totals[kind] = known + total if scoped else max(known, total)

    def pages(self, kind, names, project):
        """The items of a kind in a project, until the limit is reached."""
        asks, _ = listing(self.client, names)
        for ask in asks:
            known = self.entities.setdefault(kind, {})
            page, pages, seen, total = 1, 1, 0, 0
            while page <= min(pages, PAGES) and len(known) < self.limit:
                answer = ask(page, PAGE, project)
                for item in answer.items:
                    if len(known) < self.limit:
                        seen += 1
                        yield item
                page, pages, total = page + 1, answer.total_pages, answer.total
            if page == 1:  # the limit was reached before
                total = ask(1, 1, project).total
            if seen < total:
                self.cut[kind] = self.cut.get(kind, 0) + total

    def collect(self, kind, names, fields, project):
        total, most = HEAVY.get(kind, ("", 0))
        if self.totals.get(total, 0) > most:
            self.cut[kind] = self.totals[total]
            return
        for item in self.pages(kind, names, project):
            if kind == "flavors_custom" and not item.is_custom:
                continue
            entity = {"name": item.name, "id": str(item.id)}
            key = entity["id"]
            if kind == "artifacts" and not hasattr(self.client, "list_artifact_versions"):
                key = entity.pop("id") and item.name
            for field in fields:
                value = getattr(item, field, None)
                entity[field] = getattr(value, "value", getattr(value, "name", value))
            if self.several and kind != "users":
                entity["project"] = project.name
            self.entities[kind].setdefault(key, entity)

    def secrets(self, project):
        """Secrets and whether they can be read, as each user: from 0.80 on nobody sees another's private ones."""
        store = self.client.zen_store
        accounts = [*self.entities.get("users", {}), *self.entities.get("service_accounts", {})]
        local = hasattr(store, "_get_default_user")
        try:
            for account in accounts if local else [None]:
                if local:
                    store._default_user = store.get_user(account)  # whom it takes us for
                for item in self.pages("secrets", ["list_secrets"], project):
                    if str(item.id) not in self.entities["secrets"]:
                        entity = {"name": item.name, "id": str(item.id), "readable": self.readable(item)}
                        self.entities["secrets"][entity["id"]] = entity
        finally:
            if local:
                store._default_user = None

    def readable(self, item):
        try:
            secret = self.client.get_secret(item.id)
            return secret.secret_values is not None and not secret.has_missing_values
        except Exception:
            return False


def main(request, reply):
    import zenml
    from zenml.client import Client

    with open(request, encoding="utf-8") as file:
        limit = json.load(file).get("limit", 1000)
    client = Client()
    client.zen_store  # noqa: B018 - opens it, which may fail
    lister = Lister(client, limit)
    project = "active_project" if hasattr(Client, "active_project") else "active_workspace"
    answer = {
        "zenml": zenml.__version__,
        "user": lister.user,
        "active_stack": lister.attempt("active_stack", lambda: client.active_stack_model.name),
        "active_project": lister.attempt("active_project", lambda: getattr(client, project).name),
    }
    lister.everything()
    entities = {kind: list(found.values()) for kind, found in lister.entities.items()}
    answer.update(lister.totals, entities=entities, cut=lister.cut, errors=lister.errors)
    with open(reply, "w", encoding="utf-8") as file:
        json.dump(answer, file)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
