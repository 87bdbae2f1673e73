package e2e

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"millrace/devices/postgres/local"
)

// startPostgres runs a PostgreSQL server, and returns it with where an empty database on it is.
func startPostgres(t *testing.T, dir string) (*local.Server, string) {
	t.Helper()
	pg, err := local.Start(t.Context(), local.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	conn, err := pgx.Connect(t.Context(), pg.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var there bool
	if err := conn.QueryRow(t.Context(), "select exists (select from pg_database where datname = 'millrace')").Scan(&there); err != nil {
		t.Fatal(err)
	}
	if !there {
		if _, err := conn.Exec(t.Context(), "create database millrace"); err != nil {
			t.Fatal(err)
		}
	}
	return pg, onDatabase(t, pg.URL(), "millrace")
}

func onDatabase(t *testing.T, address, name string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

// A PostgreSQL of somebody's in place of the private one: none is started, and everything is there after stop and kill. While it is away the
// server waits for it at the start, and says so.
func TestExternalDatabase(t *testing.T) {
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	pg, address := startPostgres(t, dir)
	if said := failsToStart(t, "--database-url", onDatabase(t, address, "nowhere")); !strings.Contains(said, "nowhere") || !strings.Contains(said, "does not exist") {
		t.Errorf("a database that is not there: %s", said)
	}
	s := start(t, "--database-url", address)
	if children := s.children(); len(children) > 0 {
		t.Errorf("a private PostgreSQL runs nevertheless: %v", children)
	}
	s.must("POST", "/api/v1/groups", map[string]any{"path": "plant1", "label": "Plant 1"}, nil)
	token := s.device("d1", "plant1")
	var viewer struct{ Token string }
	s.must("POST", "/api/v1/tokens", map[string]any{"name": "wall", "role": "viewer", "group": "plant1"}, &viewer)
	for i, stop := range []func(){s.interrupt, s.kill, s.kill} {
		value := 41.5 + float64(i)
		if status, body := s.callAs(token, "POST", "/api/v1/devices/d1/telemetry", fmt.Sprintf(`{"temp":%v}`, value)); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		stop()
		if i == 2 { // it comes later than we do
			if err := pg.Close(); err != nil {
				t.Fatal(err)
			}
			waited := make(chan struct{})
			go func() {
				defer close(waited)
				for end := time.Now().Add(30 * time.Second); !strings.Contains(s.logText(), "waiting for the database") && time.Now().Before(end); {
					time.Sleep(20 * time.Millisecond)
				}
				pg, err := local.Start(t.Context(), local.Config{Dir: dir})
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(func() { pg.Close() })
			}()
			s.run()
			<-waited
		} else {
			s.run()
		}
		v := watch(t, s, viewer.Token, "plant1", nil)
		v.sees(t, "d1/temp", value)
		var group struct{ Label string }
		s.must("GET", "/api/v1/groups/plant1", nil, &group)
		if group.Label != "Plant 1" {
			t.Errorf("the group came back as %+v", group)
		}
	}
	if !strings.Contains(s.logText(), "waiting for the database") {
		t.Error("nothing was said of waiting")
	}
}

// A server that is too old is refused by its number, not by the first statement that it does not know.
func TestOldDatabase(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go oldPostgres(conn)
		}
	}()
	said := failsToStart(t, "--database-url", "postgres://someone:secret@"+l.Addr().String()+"/millrace?sslmode=disable")
	if !strings.Contains(said, "PostgreSQL 13") || !strings.Contains(said, "14") || !strings.Contains(said, l.Addr().String()) || strings.Contains(said, "secret") {
		t.Errorf("said: %s", said)
	}
}

// oldPostgres answers as PostgreSQL 13 does, as far as being asked for its version goes.
func oldPostgres(conn net.Conn) {
	defer conn.Close()
	b := pgproto3.NewBackend(conn, conn)
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ParameterStatus{Name: "server_version", Value: "13.4"})
	b.Send(&pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"})
	b.Send(&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: "on"})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	column := &pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("current_setting"), DataTypeOID: 23, DataTypeSize: 4, TypeModifier: -1}}}
	for b.Flush() == nil {
		m, err := b.Receive()
		if err != nil {
			return
		}
		switch m.(type) {
		case *pgproto3.Query: // a ping
			b.Send(&pgproto3.EmptyQueryResponse{})
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		case *pgproto3.Parse:
			b.Send(&pgproto3.ParseComplete{})
		case *pgproto3.Describe:
			b.Send(&pgproto3.ParameterDescription{})
			b.Send(column)
		case *pgproto3.Bind:
			b.Send(&pgproto3.BindComplete{})
		case *pgproto3.Execute:
			b.Send(&pgproto3.DataRow{Values: [][]byte{{0, 1, 0xfb, 0xd0 + 4}}}) // 130004
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
		case *pgproto3.Sync:
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		case *pgproto3.Terminate:
			return
		}
	}
}
