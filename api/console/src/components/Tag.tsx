import type { ReactNode } from "react";

export type Tone = "gray" | "indigo" | "orange" | "green" | "red";

/** A word in a tone. A plain element: tables have hundreds of them. */
export function Tag({ tone, outline = false, children }: { tone: Tone; outline?: boolean; children: ReactNode }) {
  return <span className={`badge ${tone}${outline ? " outline" : ""}`}>{children}</span>;
}
