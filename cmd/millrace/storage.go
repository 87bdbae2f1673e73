package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/inventory"
	"millrace/devices/postgres"
	"millrace/devices/postgres/local"
)

// migrateCmd brings the database to this version's schema.
type migrateCmd struct {
	Storage `embed:"" group:"Storage"`
}

func (c *migrateCmd) Run(ctx context.Context, con *console) error {
	return c.with(ctx, con, func(*inventory.Inventory) error {
		fmt.Fprintln(con.out, "the database has this version's schema")
		return nil
	})
}

// with runs f on the inventory in the database: the one given by --database-url, else the private server's, which is reached
// through its socket when a server runs on this data directory, and started for the moment when none does. What f changes, a
// running server learns at once.
func (s Storage) with(ctx context.Context, con *console, f func(*inventory.Inventory) error) error {
	log := slog.New(slog.NewTextHandler(con.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	var pool *pgxpool.Pool
	if s.DatabaseURL == "" {
		if err := s.make(); err != nil {
			return err
		}
		dir, err := s.dir("postgres")
		if err != nil {
			return err
		}
		if address, ok := local.Running(dir); ok {
			if pool, err = pgxpool.New(ctx, address); err != nil {
				return err
			}
			defer pool.Close()
		} else {
			lock, err := lockDataDir(s.DataDir)
			if err != nil {
				return err
			}
			defer lock.Close()
		}
	}
	if pool == nil {
		d, err := openDatabase(ctx, s, log)
		if err != nil {
			return err
		}
		defer d.close()
		pool = d.pool
	}
	store := postgres.New(pool)
	cat := catalog.New(catalog.Config{}, store)
	if err := cat.Load(ctx); err != nil {
		return err
	}
	return f(inventory.New(store, cat))
}

// byConsole is whoever may use the data directory: they may everything.
func byConsole() inventory.Caller { return inventory.Caller{Principal: devices.System} }

// pagesOf calls read for page after page.
func pagesOf[T any](read func(devices.Page) (devices.List[T], error), each func(T)) error {
	for after := ""; ; {
		list, err := read(devices.Page{After: after, Limit: devices.MaxPage})
		if err != nil {
			return err
		}
		for _, item := range list.Items {
			each(item)
		}
		if list.Next == "" {
			return nil
		}
		after = list.Next
	}
}

// tokenCmd manages API tokens.
type tokenCmd struct {
	Create tokenCreate `cmd:"" help:"Make an API token and print it, this once."`
	List   tokenList   `cmd:"" help:"List API tokens."`
	Revoke tokenRevoke `cmd:"" help:"Revoke an API token; its open connections end."`
}

type tokenCreate struct {
	Storage `embed:"" group:"Storage"`
	Name    string        `arg:"" help:"What it is for."`
	Role    devices.Role  `default:"viewer" help:"viewer, operator, editor, admin or ingest."`
	Group   string        `help:"Path of the group it is for, and all below; without it the whole site."`
	Expires time.Duration `help:"How long it lasts, such as 720h; without it, until it is revoked."`
}

func (c *tokenCreate) Run(ctx context.Context, con *console) error {
	return c.with(ctx, con, func(v *inventory.Inventory) error {
		r := inventory.TokenRequest{Name: c.Name, Role: c.Role, Group: devices.GroupPath(c.Group)}
		if c.Expires > 0 {
			at := time.Now().Add(c.Expires)
			r.Expires = &at
		}
		t, secret, err := v.CreateToken(ctx, byConsole(), r)
		if err != nil {
			return err
		}
		fmt.Fprintf(con.err, "made token %s (%s); it is shown this once:\n", t.Name, t.ID)
		fmt.Fprintln(con.out, secret)
		return nil
	})
}

type tokenList struct {
	Storage `embed:"" group:"Storage"`
}

func (c *tokenList) Run(ctx context.Context, con *console) error {
	return c.with(ctx, con, func(v *inventory.Inventory) error {
		w := tabwriter.NewWriter(con.out, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tNAME\tROLE\tGROUP\tENDS IN\tLAST USED\tEXPIRES")
		err := pagesOf(func(p devices.Page) (devices.List[devices.APIToken], error) { return v.Tokens(ctx, byConsole(), p) }, func(t devices.APIToken) {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.ID, t.Name, t.Role, groupName(t.Group), t.Hint, moment(t.LastUsed), moment(t.Expires))
		})
		return errors.Join(err, w.Flush())
	})
}

type tokenRevoke struct {
	Storage `embed:"" group:"Storage"`
	ID      string `arg:"" help:"Id of the token, as list shows it."`
}

func (c *tokenRevoke) Run(ctx context.Context, con *console) error {
	return c.with(ctx, con, func(v *inventory.Inventory) error { return v.DeleteToken(ctx, byConsole(), c.ID) })
}

// userCmd manages users.
type userCmd struct {
	Create   userCreate   `cmd:"" help:"Make a user."`
	Password userPassword `cmd:"" help:"Set a user's password; without one, make it up and print it."`
	List     userList     `cmd:"" help:"List users."`
}

type userCreate struct {
	Storage  `embed:"" group:"Storage"`
	Email    string       `arg:"" help:"E-mail address to sign in with."`
	Name     string       `help:"What to call them."`
	Password string       `name:"user-password" env:"MILLRACE_USER_PASSWORD" help:"Password; without one, it is made up and printed. Better given in the environment than as flag."`
	Role     devices.Role `help:"A role to give them: viewer, operator, editor or admin."`
	Group    string       `help:"Path of the group for the role, and all below; without it the whole site."`
}

func (c *userCreate) Run(ctx context.Context, con *console) error {
	return c.with(ctx, con, func(v *inventory.Inventory) error {
		password, made := passwordOr(c.Password)
		u, err := v.CreateUser(ctx, byConsole(), devices.User{Email: c.Email, Name: c.Name}, password)
		if err != nil {
			return err
		}
		if c.Role != "" {
			if _, err := v.CreateBinding(ctx, byConsole(), devices.Binding{User: u.ID, Group: devices.GroupPath(c.Group), Role: c.Role}); err != nil {
				return fmt.Errorf("the user was made, but got no role: %w", err)
			}
		}
		fmt.Fprintf(con.err, "made user %s (%s)\n", u.Email, u.ID)
		return tellPassword(con, password, made)
	})
}

type userPassword struct {
	Storage  `embed:"" group:"Storage"`
	Email    string `arg:"" help:"The user's e-mail address."`
	Password string `name:"user-password" env:"MILLRACE_USER_PASSWORD" help:"The new password; without one, it is made up and printed."`
}

func (c *userPassword) Run(ctx context.Context, con *console) error {
	return c.with(ctx, con, func(v *inventory.Inventory) error {
		id := ""
		err := pagesOf(func(p devices.Page) (devices.List[devices.User], error) { return v.Users(ctx, byConsole(), p) }, func(u devices.User) {
			if strings.EqualFold(u.Email, c.Email) {
				id = u.ID
			}
		})
		if err != nil {
			return err
		}
		if id == "" {
			return fmt.Errorf("user %s: %w", c.Email, devices.ErrNotFound)
		}
		password, made := passwordOr(c.Password)
		if _, err := v.UpdateUser(ctx, byConsole(), id, inventory.UserPatch{Password: &password}); err != nil {
			return err
		}
		fmt.Fprintf(con.err, "set the password of %s; open sessions have ended\n", c.Email)
		return tellPassword(con, password, made)
	})
}

type userList struct {
	Storage `embed:"" group:"Storage"`
}

func (c *userList) Run(ctx context.Context, con *console) error {
	return c.with(ctx, con, func(v *inventory.Inventory) error {
		bindings, err := v.Bindings(ctx, byConsole(), devices.Site, "", "")
		if err != nil {
			return err
		}
		roles := map[string][]string{}
		for _, b := range bindings {
			roles[b.User] = append(roles[b.User], fmt.Sprintf("%s of %s", b.Role, groupName(b.Group)))
		}
		w := tabwriter.NewWriter(con.out, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tE-MAIL\tNAME\tROLES\tLAST SIGN-IN\tSTATE")
		err = pagesOf(func(p devices.Page) (devices.List[devices.User], error) { return v.Users(ctx, byConsole(), p) }, func(u devices.User) {
			state := "active"
			if u.Disabled {
				state = "disabled"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", u.ID, u.Email, u.Name, strings.Join(roles[u.ID], ", "), moment(u.LastLogin), state)
		})
		return errors.Join(err, w.Flush())
	})
}

func groupName(p devices.GroupPath) string {
	if p == devices.Site {
		return "(site)"
	}
	return string(p)
}

func moment(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return t.Local().Format(time.DateTime)
}

// passwordOr returns the password, or makes one up.
func passwordOr(given string) (password string, made bool) {
	if given != "" {
		return given, false
	}
	return strings.ToLower(rand.Text()[:20]), true
}

// tellPassword prints a password that was made up.
func tellPassword(con *console, password string, made bool) error {
	if !made {
		return nil
	}
	fmt.Fprintln(con.err, "password, shown this once:")
	_, err := fmt.Fprintln(con.out, password)
	return err
}
