"""The same small application for four of Python's servers: it reads the body and answers with the last word of the path.

    apps.py waitress|uvicorn|aiohttp PORT        (gunicorn: `gunicorn -k gthread apps:wsgi`)
"""

import sys


def wsgi(environ, start_response):
    environ["wsgi.input"].read()
    body = f"[{environ['PATH_INFO'].strip('/').split('/')[-1]}]".encode("utf-8", "replace")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    body = f"[{scope['path'].strip('/').split('/')[-1]}]".encode("utf-8", "replace")
    fields = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def main():
    server, port = sys.argv[1], int(sys.argv[2])
    if server == "waitress":
        import waitress

        waitress.serve(wsgi, host="127.0.0.1", port=port, threads=8, _quiet=True)
    elif server == "uvicorn":
        import uvicorn

        uvicorn.run(asgi, host="127.0.0.1", port=port, http="h11", log_level="critical")
    elif server == "aiohttp":
        from aiohttp import web

        async def answer(request):
            await request.read()
            return web.Response(text=f"[{request.path.strip('/').split('/')[-1]}]")

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    main()
