// Text that is edited, read or compared, by CodeMirror.
import { autocompletion, completionKeymap } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { json } from "@codemirror/lang-json";
import { yaml } from "@codemirror/lang-yaml";
import { bracketMatching, defaultHighlightStyle, foldGutter, foldKeymap, indentOnInput, syntaxHighlighting } from "@codemirror/language";
import { type Diagnostic, lintGutter, setDiagnostics } from "@codemirror/lint";
import { unifiedMergeView } from "@codemirror/merge";
import { highlightSelectionMatches, search, searchKeymap } from "@codemirror/search";
import { EditorState, type Extension } from "@codemirror/state";
import { oneDarkHighlightStyle } from "@codemirror/theme-one-dark";
import { EditorView, highlightActiveLine, keymap, lineNumbers } from "@codemirror/view";
import { useComputedColorScheme } from "@mantine/core";
import { type RefObject, useEffect, useRef } from "react";
import { complete } from "../compute/complete";

export type Fault = { from: number; to: number; message: string };

type Props = {
  label: string;
  text: string;
  language: "yaml" | "json" | "log";
  height: number | string;
  change?: (text: string) => void;
  faults?: Fault[];
  /** A JSON Schema, for completion. */
  schema?: unknown;
  /** Show how the text differs from this one. */
  original?: string;
  /** Whether a log is first shown at its end. */
  atEnd?: boolean;
  /** Where to keep the view, for those who move it. */
  view?: RefObject<EditorView | null>;
};

export function Editor(props: Props) {
  const { label, text, language, height, faults, original, schema, atEnd = false } = props;
  const place = useRef<HTMLDivElement>(null);
  const own = useRef<EditorView | null>(null);
  const change = useRef(props.change);
  change.current = props.change;
  const written = useRef<string | null>(null);
  const known = useRef(schema);
  known.current = schema;
  const shared = props.view;
  const readOnly = props.change === undefined;
  const dark = useComputedColorScheme("light") === "dark";

  useEffect(() => {
    if (place.current === null) return undefined;
    const languages: Record<Props["language"], Extension> = { yaml: yaml(), json: json(), log: [] };
    const made = new EditorView({
      parent: place.current,
      state: EditorState.create({
        // What has been written stays when the colours change.
        doc: written.current ?? text,
        extensions: [
          lineNumbers(),
          languages[language],
          syntaxHighlighting(dark ? oneDarkHighlightStyle : defaultHighlightStyle),
          EditorView.theme({}, { dark }),
          EditorView.contentAttributes.of({ "aria-label": label }),
          EditorView.lineWrapping,
          search({ top: true }),
          highlightSelectionMatches(),
          keymap.of([...searchKeymap, ...defaultKeymap, ...foldKeymap]),
          language === "log" ? [] : foldGutter(),
          original === undefined ? [] : unifiedMergeView({ original, mergeControls: false, collapseUnchanged: {} }),
          readOnly
            ? [EditorState.readOnly.of(true), EditorView.contentAttributes.of({ tabindex: "0" })]
            : [
                history(),
                lintGutter(),
                bracketMatching(),
                indentOnInput(),
                highlightActiveLine(),
                autocompletion({ override: [(context) => complete(known.current)(context)] }),
                keymap.of([...completionKeymap, ...historyKeymap, indentWithTab]),
                EditorView.updateListener.of((update) => {
                  if (!update.docChanged) return;
                  written.current = update.state.doc.toString();
                  change.current?.(written.current);
                }),
              ],
        ],
      }),
    });
    own.current = made;
    if (shared !== undefined) shared.current = made;
    return () => {
      made.destroy();
      own.current = null;
      if (shared !== undefined) shared.current = null;
    };
    // The text is taken over below, without losing the place of the reader.
  }, [language, dark, readOnly, label, original, shared]);

  useEffect(() => {
    const view = own.current;
    if (view === null) return;
    const { doc } = view.state;
    if (text.length > doc.length && doc.length > 0 && language === "log" && text.startsWith(doc.sliceString(0, 200))) {
      // A log grows at its end.
      const bottom = view.scrollDOM.scrollHeight - view.scrollDOM.scrollTop - view.scrollDOM.clientHeight < 40;
      view.dispatch({ changes: { from: doc.length, insert: text.slice(doc.length) } });
      if (bottom) view.dispatch({ effects: EditorView.scrollIntoView(view.state.doc.length) });
    } else if (text !== doc.toString()) {
      view.dispatch({ changes: { from: 0, to: doc.length, insert: text } });
      if (atEnd && doc.length === 0) view.dispatch({ effects: EditorView.scrollIntoView(text.length) });
    }
  }, [text, language, atEnd]);

  useEffect(() => {
    const view = own.current;
    if (view === null || faults === undefined) return;
    const end = view.state.doc.length;
    const shown = faults.map(
      ({ from, to, message }): Diagnostic => ({
        from: Math.min(from, end),
        to: Math.min(to, end),
        message,
        severity: "error",
      }),
    );
    view.dispatch(setDiagnostics(view.state, shown));
  }, [faults]);

  return <div className="editor" ref={place} style={{ height }} />;
}
