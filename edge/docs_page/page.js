// The page of /docs: Swagger UI over /openapi.json, and below it the channels of /asyncapi.json.
// Texts from the documents go in as text, never as markup.
"use strict";

SwaggerUIBundle({
  url: new URL("openapi.json", document.baseURI).href,
  dom_id: "#operations",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
  displayRequestDuration: true,
  validatorUrl: null,
});

function element(name, text, parent) {
  const made = document.createElement(name);
  made.textContent = text;
  parent.append(made);
  return made;
}

function resolve(document_, value) {
  if (!value || !value.$ref) return value;
  return value.$ref.slice(2).split("/").reduce(
    (at, part) => at[part.replaceAll("~1", "/").replaceAll("~0", "~")], document_);
}

function showChannel(document_, channel, list) {
  const card = element("article", "", list);
  element("h3", "WebSocket " + channel.address, card);
  element("p", channel.description || "", card);
  const table = element("table", "", card);
  for (const operation of Object.values(document_.operations)) {
    if (resolve(document_, operation.channel) !== channel) continue;
    for (const reference of operation.messages) {
      const message = resolve(document_, resolve(document_, reference));
      const row = element("tr", "", table);
      element("th", (operation.action === "send" ? "gateway says " : "client says ") + message.name, row);
      const cell = element("td", message.summary || "", row);
      for (const example of message.examples || []) element("pre", JSON.stringify(example.payload), cell);
    }
  }
}

fetch("asyncapi.json").then((answer) => answer.json()).then((document_) => {
  const list = document.getElementById("channel-list");
  for (const channel of Object.values(document_.channels)) {
    if (!channel.address.startsWith("/api/")) showChannel(document_, channel, list);
  }
  document.getElementById("channels").hidden = false;
});
