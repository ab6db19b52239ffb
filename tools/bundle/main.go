// hearth-bundle makes one ES module of TypeScript, JavaScript and npm packages: esbuild, with Hearth's answer to Node's
// built-in modules. `hearth build` starts it, writes one request a line and reads one answer a line; a request like the one
// before is built incrementally, which is what `hearth dev` lives on.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/evanw/esbuild/pkg/api"
)

// request says what to bundle.
type request struct {
	// Entry is the path of the module whose default export has `fetch`.
	Entry string `json:"entry"`
	// Minify shortens names and leaves out white space.
	Minify bool `json:"minify"`
	// Alias are modules that stand in for others.
	Alias map[string]string `json:"alias"`
	// Stub names built-in modules that may be imported all the same: using them throws.
	Stub []string `json:"stub"`
}

// place is where something stands in the user's code.
type place struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
	Text   string `json:"text"`
}

// problem is what esbuild says of the code.
type problem struct {
	Message string   `json:"message"`
	Place   *place   `json:"place"`
	Notes   []string `json:"notes"`
}

// module is something that was imported and not found as a file, and who imports it.
type module struct {
	Name      string   `json:"name"`
	Importers []string `json:"importers"`
}

// input is a file that went in.
type input struct {
	Path string `json:"path"`
	// Bytes that are left of it in the bundle.
	Bytes int `json:"bytes"`
}

// answer is the bundle, or why there is none.
type answer struct {
	Code     string    `json:"code"`
	Map      string    `json:"map"`
	Root     string    `json:"root"`
	Inputs   []input   `json:"inputs"`
	Errors   []problem `json:"errors"`
	Warnings []problem `json:"warnings"`
	// Provided are built-in modules that the bundle has from here or from the environment.
	Provided []module `json:"provided"`
	// Absent are modules that are imported while code runs, and that throw then.
	Absent []module `json:"absent"`
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	var builds bundler
	for lines.Scan() {
		var asked request
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			fmt.Fprintln(os.Stderr, "hearth-bundle: a request cannot be read:", err)
			os.Exit(2)
		}
		if err := out.Encode(builds.build(asked)); err != nil {
			os.Exit(1)
		}
	}
}

// bundler keeps what the next build can use of the last one.
type bundler struct {
	asked   string
	builtin *builtins
	context api.BuildContext
	root    string
}

func (b *bundler) build(asked request) answer {
	entry, err := filepath.Abs(asked.Entry)
	if err != nil {
		return refused(err.Error())
	}
	asked.Entry = entry
	key, _ := json.Marshal(asked)
	if b.context == nil || b.asked != string(key) {
		if b.context != nil {
			b.context.Dispose()
		}
		b.root = rootOf(entry)
		b.builtin = &builtins{root: b.root, stub: asked.Stub}
		context, problem := api.Context(options(asked, b.root, b.builtin))
		if problem != nil {
			b.context = nil
			return answer{Errors: problems(problem.Errors)}
		}
		b.context, b.asked = context, string(key)
	}
	b.builtin.begin(nil)
	result := b.context.Rebuild()
	made := b.answer(result)
	if len(made.Errors) > 0 {
		return made.answer
	}
	if missing := b.builtin.missing(made.kept); len(missing) > 0 {
		// Once more, to be told the line of each import that cannot be had.
		b.builtin.begin(missing)
		made.Errors = problems(b.context.Rebuild().Errors)
		made.Code, made.Map = "", ""
	}
	return made.answer
}

// built is an answer, and which modules of the namespaces below are in it.
type built struct {
	answer
	kept map[string]bool
}

func (b *bundler) answer(result api.BuildResult) built {
	made := built{kept: map[string]bool{}}
	made.Root = b.root
	warnings, bare := b.builtin.sift(result.Warnings)
	made.Errors = problems(append(result.Errors, bare...))
	made.Warnings = problems(warnings)
	if len(made.Errors) > 0 {
		return made
	}
	for _, file := range result.OutputFiles {
		if strings.HasSuffix(file.Path, ".map") {
			made.Map = string(file.Contents)
		} else {
			made.Code = string(file.Contents)
		}
	}
	var meta struct {
		Outputs map[string]struct {
			Inputs map[string]struct {
				BytesInOutput int `json:"bytesInOutput"`
			} `json:"inputs"`
		} `json:"outputs"`
	}
	if err := json.Unmarshal([]byte(result.Metafile), &meta); err != nil {
		made.Errors = []problem{{Message: "what esbuild says of its bundle cannot be read: " + err.Error()}}
		return made
	}
	for _, output := range meta.Outputs {
		for path, in := range output.Inputs {
			if in.BytesInOutput > 0 {
				made.Inputs = append(made.Inputs, input{path, in.BytesInOutput})
				made.kept[path] = true
			}
		}
	}
	sort.Slice(made.Inputs, func(i, j int) bool { return made.Inputs[i].Path < made.Inputs[j].Path })
	made.Provided, made.Absent = b.builtin.told(made.kept)
	return made
}

func options(asked request, root string, builtin *builtins) api.BuildOptions {
	return api.BuildOptions{
		EntryPoints:   []string{asked.Entry},
		AbsWorkingDir: root,
		// Where the source map's paths begin. Nothing is written.
		Outfile:  filepath.Join(root, "agent.js"),
		Bundle:   true,
		Metafile: true,
		Format:   api.FormatESModule,
		Target:   api.ES2024,
		// A column is then the same in bytes, in code points and in UTF-16, which whoever counts them counts differently.
		Charset: api.CharsetASCII,
		Alias:   asked.Alias,
		// As bundlers for other runtimes without Node resolve packages, so that they choose the same files.
		Platform:          api.PlatformBrowser,
		Conditions:        []string{"workerd", "worker", "browser", "module"},
		MainFields:        []string{"browser", "module", "main"},
		Define:            map[string]string{"process.env.NODE_ENV": `"production"`, "global": "globalThis"},
		Sourcemap:         api.SourceMapExternal,
		SourcesContent:    api.SourcesContentExclude,
		LegalComments:     api.LegalCommentsNone,
		MinifyWhitespace:  asked.Minify,
		MinifyIdentifiers: asked.Minify,
		MinifySyntax:      asked.Minify,
		Loader:            map[string]api.Loader{".txt": api.LoaderText, ".md": api.LoaderText, ".wasm": api.LoaderBinary},
		Inject:            []string{globals},
		LogLevel:          api.LogLevelSilent,
		Plugins:           []api.Plugin{{Name: "hearth", Setup: builtin.setup}},
	}
}

// rootOf is the folder of the package that a file belongs to, else its own.
func rootOf(entry string) string {
	for folder := filepath.Dir(entry); ; folder = filepath.Dir(folder) {
		if _, err := os.Stat(filepath.Join(folder, "package.json")); err == nil {
			return folder
		}
		if folder == filepath.Dir(folder) {
			return filepath.Dir(entry)
		}
	}
}

func refused(message string) answer {
	return answer{Errors: []problem{{Message: message}}}
}

func problems(messages []api.Message) []problem {
	var all []problem
	for _, message := range messages {
		told := problem{Message: message.Text}
		if at := message.Location; at != nil {
			told.Place = &place{File: at.File, Line: at.Line, Column: at.Column + 1, Text: at.LineText}
		}
		for _, note := range message.Notes {
			told.Notes = append(told.Notes, note.Text)
		}
		all = append(all, told)
	}
	return all
}
