// Command build bundles the TypeScript and CSS of web/src into web/dist with esbuild's Go API, so that building Millrace
// needs no Node. The output depends on nothing but the sources: `go generate ./web` twice leaves no difference.
//
// With -tests DIR it bundles src/*.test.ts into DIR instead, for `node --test DIR`.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/evanw/esbuild/pkg/api"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("web/build: ")
	tests := flag.String("tests", "", "bundle the tests into this folder instead")
	web := flag.String("web", ".", "the folder web/")
	flag.Parse()
	if err := os.Chdir(*web); err != nil {
		log.Fatal(err)
	}
	var err error
	if *tests != "" {
		err = bundleTests(*tests)
	} else {
		err = bundle("dist")
	}
	if err != nil {
		log.Fatal(err)
	}
}

// pages are the scripts that pages name; what they share is split into chunks.
var pages = []string{"src/app.ts", "src/home.ts", "src/group.ts", "src/device.ts", "src/trend.ts", "src/admin.ts", "src/css/app.css"}

func bundle(dist string) error {
	if err := os.RemoveAll(dist); err != nil {
		return err
	}
	if err := run(options(dist, pages, true)); err != nil {
		return err
	}
	if err := copyFile("src/icon.svg", filepath.Join(dist, "icon.svg")); err != nil {
		return err
	}
	return copyFile("vendor/htmx/htmx.min.js", filepath.Join(dist, "htmx.js"))
}

func bundleTests(dir string) error {
	found, err := filepath.Glob("src/*.test.ts")
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return fmt.Errorf("no tests in src")
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	o := options(dir, found, false)
	o.Platform = api.PlatformNode
	o.OutExtension = map[string]string{".js": ".mjs"}
	return run(o)
}

func options(dir string, entries []string, minify bool) api.BuildOptions {
	return api.BuildOptions{
		EntryPoints:       entries,
		Outdir:            dir,
		EntryNames:        "[name]",
		ChunkNames:        "chunk-[hash]",
		Bundle:            true,
		Splitting:         minify,
		Format:            api.FormatESModule,
		Alias:             map[string]string{"uplot": "./vendor/uplot/uPlot.esm.js"},
		Target:            api.ES2022,
		Charset:           api.CharsetUTF8,
		MinifyWhitespace:  minify,
		MinifyIdentifiers: minify,
		MinifySyntax:      minify,
		LegalComments:     api.LegalCommentsEndOfFile,
		TsconfigRaw:       `{"compilerOptions":{"useDefineForClassFields":true}}`,
		LogLevel:          api.LogLevelWarning,
		Write:             true,
	}
}

func run(o api.BuildOptions) error {
	if r := api.Build(o); len(r.Errors) > 0 {
		return fmt.Errorf("%d errors", len(r.Errors))
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
