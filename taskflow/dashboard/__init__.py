"""The dashboard: server-rendered pages over the same statements as the API, below ``/dashboard``.

A screen is one module with its routes, and one template that extends ``base.html``::

    @get("/workers", **shows(Scope.READ))
    async def workers_page(request: ApiRequest) -> Template:
        workers = await snapshot(request, "workers", stats.find_workers)
        return page(request, "workers.html", title="Workers", workers=workers)

    @post("/workers/{id:int}/drain", **shows(Scope.OPERATE))
    async def drain(request: ApiRequest, id: FromPath[int]) -> Redirect:
        ...
        return done(request, f"Worker {name} drains", to="/dashboard/workers", worker=name)

and is listed in ``app.SCREENS``. ``page`` gives each template what all pages need (who looks, what they may do, the
form's ``csrf`` field); ``snapshot`` keeps an answer of the database for a moment, so that fifty browsers ask no more
often than one; ``done`` writes the audit line, and leads back with a message. Each POST is checked before it comes to
its route: where it comes from, and that its form is ours. A region that should live on has an id and ``data-live``:
``live.js`` replaces it by what the server renders when something has changed. All of it works without JavaScript.
"""
