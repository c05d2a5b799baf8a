// A spec on its way to the editor of a new job: `/new?from=draft`.
const DRAFT = "vicreg-draft";

export function keepDraft(text: string): void {
  sessionStorage.setItem(DRAFT, text);
}

export function draft(): string | null {
  return sessionStorage.getItem(DRAFT);
}
