//! PostgreSQL once more: everything that moves, replaces or rewrites its files.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use safekit::types::mirror::MirrorOrder;
use safekit::types::replica::MirrorRole;

use super::server::{Server, initialise};
use crate::stage::{Options, story};

/// Told in pieces: tablespaces and databases are no part of a transaction.
const STATEMENTS: [&str; 11] = [
    "create table orders(id bigserial primary key, customer int not null, placed timestamptz default now(), note text);
     insert into orders(customer, note) select i % 97, repeat(md5(i::text), 1 + i % 60) from generate_series(1, 6000) i;
     create index on orders(customer); create index on orders using gin(to_tsvector('simple', left(note, 64)));
     create index on orders using hash(note); create index on orders using brin(placed);",
    "alter table orders add column total numeric default 7.5; alter table orders alter column customer type bigint;
     update orders set note = note || 'x' where id % 3 = 0; delete from orders where id % 11 = 0;",
    "vacuum full orders", "reindex table orders", "cluster orders using orders_pkey", "vacuum (freeze, analyze) orders",
    "create table parts(id int, kind text) partition by list(kind);
     create table parts_a partition of parts for values in ('a'); create table parts_b partition of parts for values in ('b');
     insert into parts select i, case i % 2 when 0 then 'a' else 'b' end from generate_series(1, 4000) i;
     alter table parts detach partition parts_b; truncate parts_b;
     alter table parts attach partition parts_b for values in ('b'); insert into parts values (9999, 'b');
     create materialized view totals as select customer, count(*) from orders group by customer;
     create unique index on totals(customer); refresh materialized view concurrently totals;
     create unlogged table quick as select i from generate_series(1, 3000) i; alter table quick set logged;
     create temporary table own as select * from orders;",
    "begin; create table gone as select * from orders; savepoint here; drop table orders cascade; rollback to here;
     insert into gone select * from gone limit 100; rollback;
     begin; create table kept(i int); insert into kept select generate_series(1, 500); commit;",
    "select lo_from_bytea(4711, convert_to(repeat('large object ', 40000), 'utf8'));
     select lo_put(4711, 100000, 'in the midst'::bytea);",
    "create database second template template0", "checkpoint; select pg_switch_wal(); vacuum full pg_catalog.pg_class;
     vacuum full pg_catalog.pg_attribute; reindex system postgres;",
];
/// One line for all that is in there.
const SUMS: &str = "select count(*), sum(id), sum(total), md5(string_agg(note, ',' order by id)) from orders;
    select kind, count(*), sum(id) from parts group by kind order by kind; select count(*), sum(i) from quick;
    select count(*), sum(count) from totals; select sum(i) from kept; select md5(lo_get(4711));
    select count(*), sum(n) from elsewhere; select to_regclass('gone') is null;";

#[test]
fn whatever_a_database_does_to_its_files_is_on_the_other_node() -> Result<()> {
    let options = Options { within: Duration::from_secs(240), ..Options::default() };
    story("statements", options, |stage| {
        stage.mirrored()?;
        initialise(&stage.mount(0), &["--data-checksums", "--wal-segsize=1"])?;
        let server = Server::start(&stage.mount(0))?;
        for statements in STATEMENTS {
            let shown = statements.lines().next().unwrap_or_default();
            server.query(statements).with_context(|| shown.to_owned())?;
        }
        copied_and_moved(&server)?;
        let sums = server.query(SUMS)?;
        server.check()?;
        let before = dump(&server)?;
        server.kill()?;

        stage.order(0, MirrorOrder::Second { full_sync: false })?;
        stage.until_role(0, MirrorRole::Wait)?;
        stage.order(1, MirrorOrder::Prim { force: false })?;
        stage.until_in_sync(1)?;
        let server = Server::start(&stage.mount(1))?;
        ensure!(server.query(SUMS)? == sums, "{} instead of {sums}", server.query(SUMS)?);
        let after = dump(&server)?;
        let differs = before.iter().zip(&after).find(|(before, after)| before != after);
        ensure!(before == after, "of {} lines, now {}: {differs:?}", before.len(), after.len());
        server.check()?;
        server.stop()?;
        stage.until_same()
    })
}

/// Without what is another word in each, and without the next values of sequences, which a crash moves on.
fn dump(server: &Server) -> Result<Vec<String>> {
    let other = ["\\restrict", "\\unrestrict", "SELECT pg_catalog.setval"];
    let dump = server.run("pg_dump", &["postgres"])?;
    let is_same = |line: &&str| !other.iter().any(|start| line.starts_with(start));
    Ok(dump.lines().filter(is_same).map(str::to_owned).collect())
}

/// COPY in both directions, and a table that moves to a tablespace within the mirror and back, with its links.
fn copied_and_moved(server: &Server) -> Result<()> {
    let place = server.directory_of_its_own("space")?;
    let place = place.display();
    server.query(&format!("create tablespace other location '{place}'"))?;
    let file = server.directory_of_its_own("files")?.join("rows.csv");
    let file = file.display();
    server.query(&format!("copy (select id, note from orders order by id) to '{file}' (format csv)"))?;
    server.query("create table elsewhere(n int, note text) tablespace other")?;
    server.query(&format!("copy elsewhere from '{file}' (format csv)"))?;
    for statement in [
        "create index on elsewhere(n) tablespace other",
        "alter table orders set tablespace other",
        "alter table orders set tablespace pg_default",
        "create database third tablespace other",
        "drop database third",
        "vacuum full elsewhere",
    ] {
        server.query(statement)?;
    }
    let bytes = fs::metadata(file.to_string())?.len();
    ensure!(bytes > 1_000_000, "only {bytes} bytes were copied");
    Ok(())
}
