// Starts `graphmodel lsp` and connects VS Code to it; everything else is the server's.

import * as vscode from "vscode";
import { LanguageClient, LanguageClientOptions, ServerOptions } from "vscode-languageclient/node";

import { options, serverCommand } from "./settings";

let client: LanguageClient | undefined;

function read<T>(name: string, fallback: T): T {
  return vscode.workspace.getConfiguration("graphmodel").get<T>(name, fallback);
}

async function start(): Promise<void> {
  const server: ServerOptions = serverCommand(read);
  const settings: LanguageClientOptions = {
    documentSelector: [{ language: "yaml" }, { language: "graphmodel" }],
    initializationOptions: options(read),
    synchronize: { fileEvents: vscode.workspace.createFileSystemWatcher("**/*.{yaml,yml}") },
  };
  client = new LanguageClient("graphmodel", "graphmodel", server, settings);
  try {
    await client.start();
  } catch (error) {
    client = undefined;
    const help = "Install it (pip install graphmodel), or set graphmodel.command to the command of its environment.";
    void vscode.window.showErrorMessage(`graphmodel: the language server does not start: ${error}. ${help}`);
  }
}

async function stop(): Promise<void> {
  const running = client;
  client = undefined;
  await running?.stop();
}

export async function activate(context: vscode.ExtensionContext): Promise<void> {
  context.subscriptions.push(
    vscode.commands.registerCommand("graphmodel.restart", async () => {
      await stop();
      await start();
    }),
    vscode.workspace.onDidChangeConfiguration(async (event) => {
      if (event.affectsConfiguration("graphmodel.command") || event.affectsConfiguration("graphmodel.shapes")) {
        await stop();
        await start();
      } else if (event.affectsConfiguration("graphmodel")) {
        await client?.sendNotification("workspace/didChangeConfiguration", { settings: { graphmodel: options(read) } });
      }
    }),
  );
  await start();
}

export function deactivate(): Promise<void> {
  return stop();
}
