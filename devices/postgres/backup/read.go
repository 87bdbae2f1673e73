package backup

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"

	"millrace/migrations"
)

// Archive is a backup being read, from front to end, once.
type Archive struct {
	Head Head

	sum  string // SHA-256 of the head
	zstd *zstd.Decoder
	tar  *tar.Reader
	next *tar.Header // read, but not its content
	end  End         // as it was found, to be compared with what the file says at its end
}

// Open reads the head. The caller closes.
func Open(r io.Reader) (*Archive, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(256<<20))
	if err != nil {
		return nil, err
	}
	a := &Archive{zstd: z, tar: tar.NewReader(z)}
	if err := a.open(); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// Close ends the decoder's goroutines.
func (a *Archive) Close() { a.zstd.Close() }

func (a *Archive) open() error {
	switch err := a.advance(); {
	case errors.Is(err, zstd.ErrMagicMismatch), err == nil && (a.next == nil || a.next.Name != headName):
		return ErrNoBackup
	case err != nil:
		return err
	}
	content, err := a.content()
	if err != nil {
		return err
	}
	var format struct{ Format int }
	if err := json.Unmarshal(content, &format); err != nil || format.Format < 1 {
		return ErrNoBackup
	}
	if format.Format > Format {
		return fmt.Errorf("%w: its file format is %d, this one knows %d; restore it with that version or a newer one", ErrNewer, format.Format, Format)
	}
	if err := json.Unmarshal(content, &a.Head); err != nil {
		return damaged(err)
	}
	if newest := migrations.Newest(); a.Head.Schema > newest {
		return fmt.Errorf("%w (%s): its schema is %d, this one knows up to %d; restore it with that version or a newer one", ErrNewer, a.Head.Program, a.Head.Schema, newest)
	}
	if a.Head.Schema < 1 {
		return damaged(fmt.Errorf("schema %d", a.Head.Schema))
	}
	sum := sha256.Sum256(content)
	a.sum = hex.EncodeToString(sum[:])
	return a.advance()
}

// advance reads the next entry's header; a.next is nil at the end.
func (a *Archive) advance() (err error) {
	a.next, err = a.tar.Next()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return damaged(err)
	}
	return nil
}

// content reads a small entry.
func (a *Archive) content() ([]byte, error) {
	if a.next.Size > headLimit {
		return nil, damaged(fmt.Errorf("%s has %d bytes", a.next.Name, a.next.Size))
	}
	b, err := io.ReadAll(a.tar)
	if err != nil {
		return nil, damaged(err)
	}
	return b, nil
}

func damaged(err error) error {
	if errors.Is(err, ErrDamaged) {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends too early", ErrDamaged)
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// Check reads the file to its end and compares it with its checksums.
func (a *Archive) Check(ctx context.Context, progress Progress) (End, error) {
	buf := make([]byte, 256<<10)
	for i, t := range a.Head.Tables {
		r := a.table(t.Name, i+1, progress)
		for {
			if err := ctx.Err(); err != nil {
				return End{}, err
			}
			if _, err := r.Read(buf); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return End{}, err
			}
		}
		if err := r.close(); err != nil {
			return End{}, err
		}
	}
	return a.finish()
}

// finish compares what was read with what the file says of itself.
func (a *Archive) finish() (End, error) {
	if a.next == nil || a.next.Name != endName {
		return End{}, damaged(io.ErrUnexpectedEOF)
	}
	content, err := a.content()
	if err != nil {
		return End{}, err
	}
	var end End
	if err := json.Unmarshal(content, &end); err != nil {
		return End{}, damaged(err)
	}
	if end.Head != a.sum || len(end.Tables) != len(a.end.Tables) {
		return End{}, damaged(errors.New("its head is not the one it was written with"))
	}
	for i, want := range end.Tables {
		if got := a.end.Tables[i]; got != want {
			return End{}, damaged(fmt.Errorf("table %s has %d rows in %d bytes, not the %d in %d that were written, or others", want.Name, got.Rows, got.Bytes, want.Rows, want.Bytes))
		}
	}
	if err := a.advance(); err != nil {
		return End{}, err
	}
	if a.next != nil {
		return End{}, damaged(fmt.Errorf("%s after its end", a.next.Name))
	}
	if _, err := io.Copy(io.Discard, a.zstd); err != nil { // the last block's checksum
		return End{}, damaged(err)
	}
	return end, nil
}

// table returns a reader of a table's COPY stream. It is to be closed before the next one is asked for.
func (a *Archive) table(name string, number int, progress Progress) *tableReader {
	return &tableReader{a: a, name: name, sum: sha256.New(), tell: func(rows, bytes int64, done bool) {
		progress.tell(name, number, len(a.Head.Tables), rows, bytes, done)
	}}
}

// tableReader joins a table's entries.
type tableReader struct {
	mu     sync.Mutex // whoever copies may read on for a moment after it failed
	a      *Archive
	name   string
	tell   func(rows, bytes int64, done bool)
	inside bool
	n      int
	bytes  int64
	sum    hash.Hash
	count  rowCounter
	err    error
}

func (r *tableReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.read(p)
	r.err = err
	return n, err
}

func (r *tableReader) read(p []byte) (int, error) {
	for {
		if !r.inside {
			if r.a.next == nil {
				return 0, damaged(io.ErrUnexpectedEOF)
			}
			if !strings.HasPrefix(r.a.next.Name, tablesDir+r.name+"/") {
				return 0, io.EOF
			}
			r.n++
			if want := fmt.Sprintf("%s%s/%06d.copy", tablesDir, r.name, r.n); r.a.next.Name != want {
				return 0, damaged(fmt.Errorf("%s is missing", want))
			}
			r.inside = true
		}
		n, err := r.a.tar.Read(p)
		if n > 0 {
			r.bytes += int64(n)
			r.sum.Write(p[:n])
			if _, err := r.count.Write(p[:n]); err != nil {
				return 0, damaged(err)
			}
			return n, nil // an error comes again
		}
		if errors.Is(err, io.EOF) {
			r.inside = false
			r.tell(r.count.rows, r.bytes, false)
			if err := r.a.advance(); err != nil {
				return 0, err
			}
			continue
		}
		if err != nil {
			return 0, damaged(err)
		}
	}
}

var errStopped = errors.New("no more is read")

// close notes what was read. The table must have been read to its end.
func (r *tableReader) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.err
	r.err = errStopped
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err == nil || !r.count.complete() {
		return damaged(fmt.Errorf("table %s: %w", r.name, errRows))
	}
	r.a.end.Tables = append(r.a.end.Tables, Total{Name: r.name, Rows: r.count.rows, Bytes: r.bytes, SHA256: hex.EncodeToString(r.sum.Sum(nil))})
	r.tell(r.count.rows, r.bytes, true)
	return nil
}

// failed returns why reading failed, nil if it did not.
func (r *tableReader) failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil || errors.Is(r.err, io.EOF) || errors.Is(r.err, errStopped) {
		return nil
	}
	return r.err
}
