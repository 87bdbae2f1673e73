// Package web holds what browsers load: TypeScript and CSS in src, bundled by `go generate ./web` into dist, which is
// committed and embedded here, so that `go build` needs no Node.
package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"sync"
)

//go:generate go run ./build

//go:embed dist
var dist embed.FS

// A file as it is sent; zipped is nil where gzip gains nothing.
type file struct {
	body, zipped []byte
	mime         string
}

// bundle reads and compresses everything at first use, once.
var bundle = sync.OnceValues(func() (files map[string]file, version string) {
	files = make(map[string]file)
	sum := sha256.New()
	entries, err := dist.ReadDir("dist")
	if err != nil {
		panic(err) // embedded: can't be absent
	}
	for _, e := range entries {
		body, err := fs.ReadFile(dist, "dist/"+e.Name())
		if err != nil {
			panic(err)
		}
		sum.Write([]byte(e.Name()))
		sum.Write(body)
		f := file{body: body, mime: mime.TypeByExtension(path.Ext(e.Name()))}
		switch path.Ext(e.Name()) { // not from the machine's own tables
		case ".js":
			f.mime = "text/javascript; charset=utf-8"
		case ".css":
			f.mime = "text/css; charset=utf-8"
		case ".svg":
			f.mime = "image/svg+xml"
		}
		var z bytes.Buffer
		w, _ := gzip.NewWriterLevel(&z, gzip.BestCompression)
		w.Write(body) // into memory: no error
		w.Close()
		if z.Len() < len(body)*9/10 {
			f.zipped = z.Bytes()
		}
		files[e.Name()] = f
	}
	return files, hex.EncodeToString(sum.Sum(nil))[:12]
})

// Prefix is where Handler is to be mounted.
const Prefix = "/assets/"

// Path returns the URL of a bundle such as "app.js". It contains a hash of all bundles: browsers may keep it for ever, and
// imports between bundles stay within one version.
func Path(name string) string {
	_, version := bundle()
	return Prefix + version + "/" + name
}

// Handler serves what Path names. An older version in the URL gets the present file, to be asked for again next time: a
// page that was open during an update still finds its scripts.
func Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked, name, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, Prefix), "/")
		files, version := bundle()
		f, found := files[name]
		if !ok || !found {
			http.NotFound(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		h := w.Header()
		h.Set("Content-Type", f.mime)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Vary", "Accept-Encoding")
		if asked == version {
			h.Set("Cache-Control", "public, max-age=31536000, immutable")
		} else {
			h.Set("Cache-Control", "no-cache")
		}
		body := f.body
		if f.zipped != nil && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			h.Set("Content-Encoding", "gzip")
			body = f.zipped
		}
		if r.Method == http.MethodGet {
			w.Write(body)
		}
	})
}
