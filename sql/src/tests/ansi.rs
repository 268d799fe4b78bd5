//! What has no result ends a query, as in Spark's ANSI mode; what no row gets to doesn't. And functions over columns, which executors compute.

use super::Fixture;
use crate::{DataFrame, Error, Registry, col, lit, show::cell_text};

const COLUMNS: &str = "a INT, b INT, n BIGINT, at TIMESTAMP, t STRING";

const ROWS: &str = "\
7,2,9223372036854775807,2026-02-28 23:59:59.5,Hello
-2147483648,0,1,1969-12-31 23:59:58.25,aXbXc
,,,,
";

/// Rows of a text's query over files, cell by cell.
fn computed(fixture: &Fixture, sql: &str) -> Result<Vec<Vec<String>>, Error> {
    let batches = fixture.session.sql(sql)?.collect()?;
    let zone = fixture.session.zone();
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter();
            rows.push(
                cells
                    .map(|column| cell_text(column.as_ref(), row, zone))
                    .collect::<Result<Vec<_>, _>>()?,
            );
        }
    }
    Ok(rows)
}

fn in_zone(zone: &str) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::of(folder, zone, Registry::default());
    fixture.put("1", ROWS);
    let reader = fixture.session.read().schema(COLUMNS);
    let rows = reader.csv(fixture.input().to_str().unwrap()).unwrap();
    rows.create_or_replace_temp_view("t").unwrap();
    fixture
}

/// The cells of the one column, by rows.
fn column(fixture: &Fixture, sql: &str) -> Vec<String> {
    let rows = computed(fixture, sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.into_iter().map(|row| row.join("|")).collect()
}

#[test]
fn what_has_no_result_ends_a_query() {
    let fixture = in_zone("UTC");
    for (expression, reason) in [
        ("a - CAST(1 AS INT)", "overflow"),
        ("n + 1", "overflow"),
        ("n * 2", "overflow"),
        ("1 - (-n) + n", "overflow"),
        ("-a", "overflow"),
        ("abs(a)", "overflow"),
        ("a / b", "division by zero"),
        ("a % b", "division by zero"),
        ("1.5E0 / b", "division by zero"),
        ("CAST(a AS DOUBLE) % b", "division by zero"),
        ("CAST(a AS DECIMAL(12,2)) / b", "division by zero"),
        ("1 / 0", "division by zero"),
        ("sum(n)", "overflow"),
        ("split(t, 'X')[1]", "has none at 1"),
        ("split(t, 'X')[-1]", "has none at -1"),
    ] {
        let sql = format!("SELECT {expression} AS x FROM t");
        let error = computed(&fixture, &sql).expect_err(&sql).to_string();
        assert!(error.contains(reason), "{sql}: {error}");
    }
    let by_group = "SELECT a IS NULL AS g, sum(n) AS s FROM t GROUP BY a IS NULL";
    let error = computed(&fixture, by_group).unwrap_err().to_string();
    assert!(error.contains("a sum is no BIGINT"), "{error}");
    fixture.session.stop().unwrap();
}

#[test]
fn what_no_row_gets_to_ends_nothing() {
    let fixture = in_zone("UTC");
    for (sql, expected) in [
        ("SELECT a / b FROM t WHERE b <> 0", vec!["3.5"]),
        ("SELECT a FROM t WHERE b <> 0 AND a / b > 1", vec!["7"]),
        ("SELECT a FROM t WHERE a / b > 1 AND b <> 0", vec!["7"]),
        (
            "SELECT a FROM t WHERE b <> 0 AND a % b = 1 AND 6 / b > 1",
            vec!["7"],
        ),
        (
            "SELECT a FROM (SELECT a, b FROM t WHERE b <> 0) AS u WHERE a / b > 1",
            vec!["7"],
        ),
        // The engine would compute these columns before it leaves rows out.
        (
            "SELECT b, (a + length(t)) / b AS q FROM t WHERE b <> 0",
            vec!["2|6.0"],
        ),
        (
            "SELECT b, -a - length(t) AS q FROM t WHERE b > 0",
            vec!["2|-12"],
        ),
        (
            "SELECT b <> 0 AND a / b > 1 AS x FROM t",
            vec!["true", "false", "NULL"],
        ),
        (
            "SELECT b = 0 OR a % b = 1 AS x FROM t",
            vec!["true", "true", "NULL"],
        ),
        (
            "SELECT a FROM t WHERE t <> 'Hello' AND CAST(regexp_replace(t, 'aXbXc', '5') AS INT) = 5",
            vec!["-2147483648"],
        ),
        (
            "SELECT x FROM (SELECT CAST(regexp_replace(t, 'aXbXc', '5') AS INT) AS x, t FROM t) AS u WHERE t <> 'Hello' AND x > 4",
            vec!["5"],
        ),
        (
            "SELECT t <> 'Hello' AND CAST(regexp_replace(t, 'aXbXc', '5') AS INT) = 5 AS x FROM t",
            vec!["false", "true", "NULL"],
        ),
        (
            "SELECT b <> 2 AND n + n + n > 0 AS x FROM t",
            vec!["false", "true", "NULL"],
        ),
        (
            "SELECT CASE WHEN b <> 0 THEN a / b ELSE 0 END AS x FROM t",
            vec!["3.5", "0.0", "0.0"],
        ),
        (
            "SELECT size(split(t, 'X')) > 1 AND split(t, 'X')[1] = 'b' AS x FROM t",
            vec!["false", "true", "NULL"],
        ),
        (
            "SELECT sum(a / b) FILTER (WHERE b <> 0) AS x FROM t",
            vec!["3.5"],
        ),
        (
            "SELECT a / nullif(b, 0) AS x FROM t",
            vec!["3.5", "NULL", "NULL"],
        ),
        ("SELECT NULL / b AS x FROM t WHERE b = 0", vec!["NULL"]),
    ] {
        assert_eq!(column(&fixture, sql), expected, "{sql}");
    }
    fixture.session.stop().unwrap();
}

#[test]
fn many_operators_are_computed_from_left_to_right() {
    let fixture = in_zone("UTC");
    let long = |side: &str| format!("SELECT b{} AS x FROM t WHERE b = 2", side.repeat(60));
    for (sql, expected) in [
        (long(" + b"), "122"),
        (long(" - b"), "-118"),
        (long(" * b").replace("SELECT b", "SELECT n * 0"), "0"),
        (
            "SELECT 100 / b / b / b AS x FROM t WHERE b = 2".to_owned(),
            "12.5",
        ),
        ("SELECT n % 10 % 4 AS x FROM t WHERE b = 2".to_owned(), "3"),
    ] {
        assert_eq!(column(&fixture, &sql), [expected], "{sql}");
    }
    let sql = "SELECT n - n - 1 + n + 1 + 1 AS x FROM t WHERE b = 2";
    let error = computed(&fixture, sql).unwrap_err().to_string();
    assert!(error.contains("overflow"), "{error}");
    fixture.session.stop().unwrap();
}

#[test]
fn columns_without_a_name_keep_it() {
    let fixture = in_zone("UTC");
    let names = |frame: &DataFrame| -> Vec<String> {
        frame.collect().unwrap();
        let schema = frame.schema();
        let fields = schema.fields().iter();
        fields.map(|field| field.name().clone()).collect()
    };
    let text = "SELECT a + b, -a, a / (b * 2), n % 2 FROM t WHERE b > 0";
    let frame = fixture.session.sql(text).unwrap();
    assert_eq!(
        names(&frame),
        ["(a + b)", "(- a)", "(a / (b * 2))", "(n % 2)"]
    );
    let rows = fixture
        .session
        .sql("SELECT a, b FROM t WHERE b > 0")
        .unwrap();
    let frame = rows.select([col("a") + col("b"), col("a") / col("b")]);
    assert_eq!(names(&frame.unwrap()), ["t.a + t.b", "t.a / t.b"]);
    let grouped = "SELECT b % 2, count(*) AS c FROM t WHERE b IS NOT NULL GROUP BY b % 2";
    assert_eq!(column(&fixture, grouped), ["0|2"]);
    fixture.session.stop().unwrap();
}

#[test]
fn times_as_numbers_are_seconds_since_1970() {
    for (zone, seconds_of_first) in [
        ("UTC", "1772323199|1.7723231995E9|1772323199.500|NULL"),
        (
            "Europe/Berlin",
            "1772319599|1.7723195995E9|1772319599.500|NULL",
        ),
    ] {
        let fixture = in_zone(zone);
        let seconds = "SELECT CAST(at AS BIGINT) AS w, CAST(at AS DOUBLE) AS x, CAST(at AS DECIMAL(20,3)) AS y, TRY_CAST(at AS TINYINT) AS z FROM t WHERE a = 7";
        assert_eq!(column(&fixture, seconds), [seconds_of_first]);
        // Before 1970 seconds are rounded down.
        let before = "SELECT CAST(CAST('1969-12-31 23:59:58.25 UTC' AS TIMESTAMP) AS BIGINT) AS x";
        assert_eq!(column(&fixture, before), ["-2"]);
        let back = "SELECT CAST(CAST(at AS BIGINT) AS TIMESTAMP) AS x, CAST(CAST(at AS DOUBLE) AS TIMESTAMP) = at AS y FROM t WHERE a = 7";
        assert_eq!(column(&fixture, back), ["2026-02-28 23:59:59|true"]);
        let literal =
            "SELECT CAST(0 AS TIMESTAMP) = CAST('1970-01-01 00:00:00 UTC' AS TIMESTAMP) AS x";
        assert_eq!(column(&fixture, literal), ["true"]);
        let none = "SELECT TRY_CAST(CAST('NaN' AS DOUBLE) AS TIMESTAMP) AS x";
        assert_eq!(column(&fixture, none), ["NULL"]);
        let error = computed(
            &fixture,
            "SELECT CAST(CAST('NaN' AS DOUBLE) AS TIMESTAMP) AS x",
        );
        assert!(error.is_err());
        fixture.session.stop().unwrap();
    }
}

#[test]
fn functions_over_columns_give_what_spark_gives() {
    let fixture = in_zone("Europe/Berlin");
    for (expression, expected) in [
        ("year(at), quarter(at), month(at), day(at)", "2026|1|2|28"),
        (
            "dayofmonth(at), dayofyear(at), dayofweek(at), weekofyear(at)",
            "28|59|7|9",
        ),
        ("hour(at), minute(at), second(at)", "23|59|59"),
        ("year('2025-12-31'), day(CAST(at AS DATE))", "2025|28"),
        (
            "extract(YEAR FROM at), date_part('dayofweek', at)",
            "2026|7",
        ),
        ("date_trunc('HOUR', at)", "2026-02-28 23:00:00"),
        ("trunc(CAST(at AS DATE), 'MM')", "2026-02-01"),
        (
            "substring(t, 0, 2), substring(t, -3, 2), substr(t, 2), substring(t FROM 2 FOR 2)",
            "He|ll|ello|el",
        ),
        ("regexp_replace(t, 'l', 'r')", "Herro"),
        ("regexp_replace(t, '(l)(l)', '$2-$1', 1)", "Hel-lo"),
        (
            "round(ln(b), 4), log10(b - 2), ln(b - 3)",
            "0.6931|NULL|NULL",
        ),
        (
            "log2(b), round(log(b), 4), round(log(2, 8), 4)",
            "1.0|0.6931|3.0",
        ),
        ("sqrt(b - 3), sqrt(b + 2)", "NaN|2.0"),
        (
            "CAST(b / 1000 + 1.003 AS DECIMAL(10,2)), CAST(b * 0.5025E0 AS DECIMAL(10,2))",
            "1.01|1.01",
        ),
        ("CAST(b * 1E20 AS DECIMAL(38,1))", "200000000000000000000.0"),
        (
            "TRY_CAST(CAST('NaN' AS DOUBLE) * b AS DECIMAL(10,1))",
            "NULL",
        ),
        (
            "size(split(t, 'l')), size(split(nullif(t, 'Hello'), 'l'))",
            "3|NULL",
        ),
    ] {
        let sql = format!("SELECT {expression} FROM t WHERE a = 7");
        assert_eq!(column(&fixture, &sql), [expected], "{sql}");
    }
    fixture.session.stop().unwrap();
}

#[test]
fn names_keep_their_case_and_are_found_in_any() {
    let fixture = in_zone("UTC");
    let names = |sql: &str| -> Vec<String> {
        let frame = fixture.session.sql(sql);
        let frame = frame.unwrap_or_else(|error| panic!("{sql}: {error}"));
        frame
            .collect()
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        let schema = frame.schema();
        schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect()
    };
    let nick = "SELECT A, T AS Nick, t.B FROM t WHERE a = 7";
    assert_eq!(names(nick), ["A", "Nick", "B"]);
    let view = fixture.session.sql(nick).unwrap();
    view.create_or_replace_temp_view("Seen").unwrap();
    for (sql, expected) in [
        (
            "SELECT nick, NICK AS x FROM seen WHERE NiCk = 'Hello'",
            ["nick", "x"],
        ),
        (
            "SELECT s.Nick, S.a FROM Seen AS s ORDER BY NICK",
            ["Nick", "a"],
        ),
        (
            "SELECT nIck, count(*) FROM seen GROUP BY Nick",
            ["nIck", "count(1)"],
        ),
        (
            "SELECT Name, len FROM (SELECT nick AS Name, length(Nick) AS Len FROM seen) AS u WHERE NAME = 'Hello'",
            ["Name", "len"],
        ),
        (
            "WITH w AS (SELECT Nick AS nICK FROM seen) SELECT nick, max(NICK) FROM w GROUP BY nick",
            ["nick", "max(NICK)"],
        ),
    ] {
        assert_eq!(names(sql), expected, "{sql}");
        assert_eq!(computed(&fixture, sql).unwrap().len(), 1, "{sql}");
    }
    assert_eq!(names("SELECT * FROM seen"), ["A", "Nick", "B"]);
    assert_eq!(
        names("SELECT B AS Z, seen.* FROM seen"),
        ["Z", "A", "Nick", "B"]
    );
    let sums = "SELECT sum(b), avg(a + 1), COUNT(DISTINCT t.T), max(n) FILTER (WHERE a > 1) AS m FROM t WHERE a = 7";
    assert_eq!(
        names(sums),
        ["sum(b)", "avg((a + 1))", "count(DISTINCT T)", "m"]
    );
    let quoted = "SELECT \"a\" AS \"X y\", a AS Y FROM t";
    assert_eq!(names(quoted), ["X y", "Y"]);
    // Of a frame.
    let frame = view.filter("NICK = 'Hello' AND a > 1").unwrap();
    let frame = frame.select([col("NICK"), col("a") / col("b")]).unwrap();
    assert_eq!(frame.schema().field(0).name(), "Nick");
    let frame = view.select(["nick"]).unwrap();
    let frame = frame.with_column("NICK", "length(Nick)").unwrap();
    assert_eq!(frame.schema().fields().len(), 1);
    fixture.session.stop().unwrap();
}

#[test]
fn whole_numbers_of_a_frame_are_divided_as_in_sql() {
    let fixture = in_zone("UTC");
    let rows = fixture
        .session
        .sql("SELECT a, b, n FROM t WHERE a = 7")
        .unwrap();
    let halves = rows
        .select([
            (col("a") / col("b")).alias("q"),
            (col("n") + lit(1i64)).alias("m"),
        ])
        .unwrap();
    assert!(
        halves
            .collect()
            .unwrap_err()
            .to_string()
            .contains("overflow")
    );
    let halves = halves.select(["q"]).unwrap();
    halves.create_or_replace_temp_view("halves").unwrap();
    assert_eq!(column(&fixture, "SELECT * FROM halves"), ["3.5"]);
    fixture.session.stop().unwrap();
}
