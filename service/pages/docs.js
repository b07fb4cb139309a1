"use strict";

async function show() {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`openapi.json: status ${answer.status}`);
  const document_ = await answer.json();
  // Requests go to the folder of this page, which a reverse proxy may have moved.
  const root = new URL(".", document.baseURI).pathname.replace(/\/$/, "");
  SwaggerUIBundle({
    spec: { ...document_, servers: [{ url: root || "/" }] },
    dom_id: "#swagger-ui",
    presets: [SwaggerUIBundle.presets.apis],
    layout: "BaseLayout",
    deepLinking: true,
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    validatorUrl: null,
  });
}

show().catch((error) => { document.getElementById("error").textContent = error.message; });
