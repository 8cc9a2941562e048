import { testShortForm } from '../support/failure-run.ts'

testShortForm('link-cut')
