// Activates the compiled extension with a stand-in for VS Code, and talks to the real server as its client does.
//
// GRAPHMODEL names the command of the server, `graphmodel` if it is not set.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import test from "node:test";

const require = createRequire(import.meta.url);
const { createMessageConnection, StreamMessageReader, StreamMessageWriter } = require("vscode-jsonrpc/node");
const { options, serverCommand } = require("../out/settings.js");

const program = process.env.GRAPHMODEL ?? "graphmodel";
const SPEC = "graphmodel: 1\ninputs: {images: [3, 64, 64]}\ntrunk: {name: resnt, depth: 18}\n";

const from = (settings) => (name, fallback) => settings[name] ?? fallback;

test("the command is the setting, or graphmodel lsp", () => {
  assert.deepEqual(serverCommand(from({})), { command: "graphmodel", args: ["lsp"] });
  assert.deepEqual(serverCommand(from({ command: ["/venv/graphmodel", "lsp"] })), {
    command: "/venv/graphmodel",
    args: ["lsp"],
  });
  assert.deepEqual(serverCommand(from({ command: "rm -rf" })), { command: "graphmodel", args: ["lsp"] });
});

test("every setting of the extension reaches the server", () => {
  const { configuration } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url))).contributes;
  const given = { specs: [["a.yaml", "b.yaml"]], set: ["a=1"], inputs: { x: [3] }, allowExtendsOutside: true, shapes: false };
  assert.deepEqual(options(from(given)), given);
  const names = ["command", ...Object.keys(given)].map((name) => `graphmodel.${name}`);
  assert.deepEqual(Object.keys(configuration.properties).sort(), names.sort());
});

test("the server answers the client of VS Code", async () => {
  const read = from({ command: [program, "lsp"], shapes: false });
  const { command, args } = serverCommand(read);
  const server = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] });
  const connection = createMessageConnection(
    new StreamMessageReader(server.stdout),
    new StreamMessageWriter(server.stdin),
  );
  const published = new Promise((resolve) => connection.onNotification("textDocument/publishDiagnostics", resolve));
  connection.listen();
  const params = { processId: process.pid, rootUri: null, capabilities: {}, initializationOptions: options(read) };
  const { capabilities } = await connection.sendRequest("initialize", params);
  assert.equal(capabilities.textDocumentSync.change, 2);
  await connection.sendNotification("initialized", {});
  const uri = "untitled:Untitled-1";
  const textDocument = { uri, languageId: "yaml", version: 1, text: SPEC };
  await connection.sendNotification("textDocument/didOpen", { textDocument });
  const { diagnostics } = await published;
  assert.equal(diagnostics[0].code, "GM205");
  const actions = await connection.sendRequest("textDocument/codeAction", {
    textDocument: { uri },
    range: diagnostics[0].range,
    context: { diagnostics },
  });
  assert.equal(actions[0].edit.changes[uri][0].newText, "resnet");
  const end = new Promise((resolve) => server.once("exit", resolve));
  await connection.sendRequest("shutdown");
  await connection.sendNotification("exit");
  assert.equal(await end, 0);
  connection.dispose();
});

test("activation starts a client with the settings, and deactivation stops it", async () => {
  const Module = require("node:module");
  const calls = [];
  class LanguageClient {
    constructor(id, name, server, settings) {
      calls.push(["new", id, server, settings.documentSelector, settings.initializationOptions]);
    }
    async start() {
      calls.push(["start"]);
    }
    async stop() {
      calls.push(["stop"]);
    }
    async sendNotification(method, params) {
      calls.push([method, params]);
    }
  }
  const settings = { command: [program, "lsp"], set: ["trunk.depth=34"] };
  const changed = [];
  const vscode = {
    workspace: {
      getConfiguration: () => ({ get: from(settings) }),
      createFileSystemWatcher: () => ({}),
      onDidChangeConfiguration: (listener) => changed.push(listener),
    },
    commands: { registerCommand: () => ({}) },
    window: { showErrorMessage: (text) => assert.fail(text) },
  };
  const load = Module._load;
  Module._load = (request, ...rest) =>
    request === "vscode" ? vscode : request === "vscode-languageclient/node" ? { LanguageClient } : load(request, ...rest);
  try {
    const extension = require("../out/extension.js");
    await extension.activate({ subscriptions: [] });
    settings.set = [];
    await changed[0]({ affectsConfiguration: (name) => name === "graphmodel" || name === "graphmodel.set" });
    await extension.deactivate();
  } finally {
    Module._load = load;
  }
  const [, id, server, selector, initial] = calls[0];
  assert.equal(id, "graphmodel");
  assert.deepEqual(server, { command: program, args: ["lsp"] });
  assert.deepEqual(selector, [{ language: "yaml" }, { language: "graphmodel" }]);
  assert.deepEqual(initial.set, ["trunk.depth=34"]);
  assert.deepEqual(
    calls.slice(1).map((call) => call[0]),
    ["start", "workspace/didChangeConfiguration", "stop"],
  );
  assert.deepEqual(calls[2][1].settings.graphmodel.set, []);
});
