// The application of apps.py for node: node app.js PORT
require("node:http")
  .createServer((request, response) => {
    request.on("data", () => {});
    request.on("end", () => {
      const path = request.url.split("?")[0].split("/").filter(Boolean).pop() ?? "";
      const body = `[${path}]`;
      response.writeHead(200, { "content-type": "text/plain", "content-length": Buffer.byteLength(body) });
      response.end(body);
    });
  })
  .listen(Number(process.argv[2]), "127.0.0.1");
