// What the server is started with: the command, and the initialization options. No part of VS Code is needed here.

/** Reads one setting of the section `graphmodel`. */
export type Read = <T>(name: string, fallback: T) => T;

export interface Command {
  command: string;
  args: string[];
}

/** The program of the server and its arguments; `graphmodel lsp` if the setting is not a list of words. */
export function serverCommand(read: Read): Command {
  const words = read<unknown>("command", []);
  const given = Array.isArray(words) && words.length > 0 && words.every((word) => typeof word === "string");
  const [command, ...args] = given ? (words as string[]) : ["graphmodel", "lsp"];
  return { command, args };
}

/** The options that the server reads when it starts, and whenever the configuration changes. */
export function options(read: Read): Record<string, unknown> {
  return {
    specs: read<unknown[]>("specs", []),
    set: read<string[]>("set", []),
    inputs: read<Record<string, unknown>>("inputs", {}),
    allowExtendsOutside: read<boolean>("allowExtendsOutside", false),
    shapes: read<boolean>("shapes", true),
  };
}
