package main

import (
	"embed"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/evanw/esbuild/pkg/api"
)

// Built-in modules of Node as far as they can be had without a machine below, in JavaScript.
//
//go:embed node
var polyfills embed.FS

// Namespaces of modules that are no files.
const (
	provided = "hearth-node"
	absent   = "hearth-absent"
	// What is global in Node and not in the environment: it is in the bundle where code names it.
	globals = "hearth-globals"
)

// own marks what is resolved while something is resolved.
type own struct{}

// environment are modules that the JavaScript environment itself has.
var environment = []string{"async_hooks"}

// names are Node's built-in modules.
var names = []string{
	"assert", "assert/strict", "async_hooks", "buffer", "child_process", "cluster", "console", "constants", "crypto", "dgram",
	"diagnostics_channel", "dns", "dns/promises", "domain", "events", "fs", "fs/promises", "http", "http2", "https",
	"inspector", "inspector/promises", "module", "net", "os", "path", "path/posix", "path/win32", "perf_hooks", "process",
	"punycode", "querystring", "readline", "readline/promises", "repl", "sea", "sqlite", "stream", "stream/consumers",
	"stream/promises", "stream/web", "string_decoder", "sys", "test", "timers", "timers/promises", "tls", "trace_events", "tty",
	"url", "util", "util/types", "v8", "vm", "wasi", "worker_threads", "zlib",
}

// asked is one import of a module that is no file.
type asked struct {
	name, importer string
	isLate         bool
}

// builtins answers imports of Node's modules, and of packages that are not installed.
type builtins struct {
	root string
	stub []string
	// refuse are imports that this build answers with an error.
	refuse map[asked]bool
	seen   map[string][]asked
}

func (b *builtins) begin(refuse []asked) {
	b.refuse = map[asked]bool{}
	for _, one := range refuse {
		b.refuse[one] = true
	}
	b.seen = map[string][]asked{}
}

// isLate says whether code asks for the module while it runs, and can do without it.
func isLate(kind api.ResolveKind) bool {
	return kind == api.ResolveJSDynamicImport || kind == api.ResolveJSRequireCall || kind == api.ResolveJSRequireResolve
}

func (b *builtins) setup(build api.PluginBuild) {
	build.OnResolve(api.OnResolveOptions{Filter: "^" + globals + "$"}, func(args api.OnResolveArgs) (api.OnResolveResult, error) {
		return api.OnResolveResult{Path: globals, Namespace: globals, SideEffects: api.SideEffectsFalse}, nil
	})
	build.OnLoad(api.OnLoadOptions{Filter: ".*", Namespace: globals}, func(args api.OnLoadArgs) (api.OnLoadResult, error) {
		contents := "export { Buffer } from \"node:buffer\";\nexport { default as process } from \"node:process\";\n"
		return api.OnLoadResult{Contents: &contents, Loader: api.LoaderJS}, nil
	})
	build.OnResolve(api.OnResolveOptions{Filter: "^cloudflare:"}, func(args api.OnResolveArgs) (api.OnResolveResult, error) {
		if args.Kind == api.ResolveJSDynamicImport {
			b.note(absent, asked{args.Path, b.relative(args), true})
			return api.OnResolveResult{Path: args.Path, Namespace: absent}, nil
		}
		text := args.Path + " is not there: it is Cloudflare's own. An agent is the default export { fetch(request, env, ctx) }, and variables are in its env"
		return api.OnResolveResult{Errors: []api.Message{{Text: text}}}, nil
	})
	build.OnResolve(api.OnResolveOptions{Filter: ".*"}, func(args api.OnResolveArgs) (api.OnResolveResult, error) {
		if _, isOwn := args.PluginData.(own); isOwn || args.Kind == api.ResolveEntryPoint {
			return api.OnResolveResult{}, nil
		}
		name, isNodes := strings.CutPrefix(args.Path, "node:")
		isBuiltin := slices.Contains(names, name)
		if !isBuiltin && !isNodes && args.Kind != api.ResolveJSDynamicImport {
			return api.OnResolveResult{}, nil
		}
		// A package may have the name of a built-in module, and is meant then.
		if !isNodes && args.Namespace != provided {
			found := build.Resolve(args.Path, api.ResolveOptions{
				Importer: args.Importer, Namespace: args.Namespace, ResolveDir: args.ResolveDir, Kind: args.Kind, PluginData: own{},
			})
			if len(found.Errors) == 0 && (found.External || found.Path != "") {
				return api.OnResolveResult{
					Path: found.Path, External: found.External, Namespace: found.Namespace, Suffix: found.Suffix,
					SideEffects: map[bool]api.SideEffects{true: api.SideEffectsTrue, false: api.SideEffectsFalse}[found.SideEffects],
				}, nil
			}
		}
		if isBuiltin {
			return b.builtin(name, args)
		}
		b.note(absent, asked{args.Path, b.relative(args), true})
		return api.OnResolveResult{Path: args.Path, Namespace: absent}, nil
	})
	build.OnLoad(api.OnLoadOptions{Filter: ".*", Namespace: provided}, func(args api.OnLoadArgs) (api.OnLoadResult, error) {
		text, err := polyfills.ReadFile(polyfill(args.Path))
		contents := string(text)
		return api.OnLoadResult{Contents: &contents, Loader: api.LoaderJS}, err
	})
	build.OnLoad(api.OnLoadOptions{Filter: ".*", Namespace: absent}, func(args api.OnLoadArgs) (api.OnLoadResult, error) {
		contents := b.absence(args.Path)
		return api.OnLoadResult{Contents: &contents, Loader: api.LoaderJS}, nil
	})
}

func (b *builtins) builtin(name string, args api.OnResolveArgs) (api.OnResolveResult, error) {
	one := asked{name, b.relative(args), isLate(args.Kind)}
	if slices.Contains(environment, name) {
		b.note(provided, one)
		return api.OnResolveResult{Path: "node:" + name, External: true}, nil
	}
	if _, err := polyfills.ReadFile(polyfill(name)); err == nil {
		b.note(provided, one)
		return api.OnResolveResult{Path: name, Namespace: provided, SideEffects: api.SideEffectsFalse}, nil
	}
	if b.refuse[one] {
		return api.OnResolveResult{Errors: []api.Message{{Text: refusal(name)}}}, nil
	}
	b.note(absent, one)
	return api.OnResolveResult{Path: name, Namespace: absent, SideEffects: api.SideEffectsFalse}, nil
}

func refusal(name string) string {
	return fmt.Sprintf("node:%s is not there: a sandbox has no such thing. --stub %s lets the code be loaded and throw where it uses it", name, name)
}

// sift turns warnings of imports that bind nothing into errors where the module is not there, and drops them where it is:
// esbuild leaves such an import out.
func (b *builtins) sift(warnings []api.Message) (left, errors []api.Message) {
	for _, warning := range warnings {
		_, rest, _ := strings.Cut(warning.Text, "\""+absent+":")
		name, _, isAbsent := strings.Cut(rest, "\"")
		switch {
		case warning.ID != "ignored-bare-import" || !strings.Contains(warning.Text, "\"hearth-"):
			left = append(left, warning)
		case isAbsent && !slices.Contains(b.stub, name):
			warning.Text, warning.Notes = refusal(name), nil
			errors = append(errors, warning)
		}
	}
	return left, errors
}

func polyfill(name string) string {
	return path.Join("node", strings.ReplaceAll(name, "/", "-")+".js")
}

func (b *builtins) relative(args api.OnResolveArgs) string {
	if relative, err := filepath.Rel(b.root, args.Importer); err == nil && args.Namespace == "file" {
		return relative
	}
	return args.Importer
}

func (b *builtins) note(namespace string, one asked) {
	key := namespace + ":" + one.name
	if !slices.Contains(b.seen[key], one) {
		b.seen[key] = append(b.seen[key], one)
	}
}

// missing are imports of absent modules without which the bundle cannot be evaluated.
func (b *builtins) missing(kept map[string]bool) []asked {
	var all []asked
	for key, imports := range b.seen {
		if !strings.HasPrefix(key, absent) || !kept[key] {
			continue
		}
		for _, one := range imports {
			if !one.isLate && kept[one.importer] && !slices.Contains(b.stub, one.name) {
				all = append(all, one)
			}
		}
	}
	return all
}

// told lists what the bundle has in place of files.
func (b *builtins) told(kept map[string]bool) (has, lacks []module) {
	for key, imports := range b.seen {
		namespace, name, _ := strings.Cut(key, ":")
		if !kept[key] && !slices.Contains(environment, name) {
			continue
		}
		told := module{Name: name}
		for _, one := range imports {
			if one.importer == globals {
				told.Importers = append(told.Importers, "code that names it")
			} else if kept[one.importer] || strings.HasPrefix(one.importer, provided) {
				told.Importers = append(told.Importers, one.importer)
			}
		}
		if len(told.Importers) == 0 {
			continue
		}
		slices.Sort(told.Importers)
		told.Importers = slices.Compact(told.Importers)
		if namespace == provided {
			has = append(has, told)
		} else {
			lacks = append(lacks, told)
		}
	}
	byName := func(a, b module) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(has, byName)
	slices.SortFunc(lacks, byName)
	return has, lacks
}

// absence is the text of a module that is not there. As a stub it can be imported, and throws where something of it is used.
func (b *builtins) absence(name string) string {
	if slices.Contains(b.stub, name) {
		return fmt.Sprintf(`const name = %q;
function use(key) {
  const refuse = () => { throw new Error("node:" + name + " is not there, so that " + String(key) + " cannot be used"); };
  return new Proxy(function () {}, { apply: refuse, construct: refuse, get: (_, inner) => typeof inner === "symbol" ? undefined : use(key + "." + inner) });
}
// What is imported of it is copied, property by property, but for its prototype.
module.exports = Object.create(new Proxy({}, { get: (_, key) => typeof key === "symbol" || key === "__esModule" || key === "then" ? undefined : use(key) }));
`, name)
	}
	return fmt.Sprintf("throw new Error(%q);\nmodule.exports = {};\n", name+" is not in the bundle: it was not found when that was made")
}
